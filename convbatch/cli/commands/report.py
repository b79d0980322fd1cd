"""`report`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convbatch.cli.commands.arguments import OtherConfig, RunArguments, ToCurrency
from convbatch.cli.options import completing, read_filters, takes_filters

if TYPE_CHECKING:
    from convbatch.session.options import FilterOptions


@takes_filters
def report(
    runs: RunArguments,
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by",
            metavar="KEY",
            autocompletion=completing("by"),
            help="model | gateway | variant | target | tag | dialogue | turn | repeat, or several: a,b.",
        ),
    ] = None,
    config: OtherConfig = None,
    currency: ToCurrency = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "-o", "--out", help="Write FILE.html, .md, .json, .xlsx, or the main table as FILE.csv, .parquet instead."
        ),
    ] = None,
    open_it: Annotated[
        bool,
        typer.Option("--open", help="Open the HTML page; without -o FILE.html it is report.html in the run folder."),
    ] = False,
    bill: Annotated[
        Path | None,
        typer.Option(
            "--bill", metavar="FILE", help="A gateway's usage log (CSV) to join with the calls.", readable=False
        ),
    ] = None,
    bill_form: Annotated[
        str | None,
        typer.Option("--bill-form", metavar="NAME", help="Format of the usage log: new-api, or a [bills.NAME] table."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    *,
    filters: FilterOptions,
) -> None:
    """Print usage, cost, time, finish reasons and errors of runs, in groups.

    Example: convbatch report latest -o report.html --open
    """
    from convbatch.cli.pages import open_page, with_page
    from convbatch.console.text import printable_json
    from convbatch.reporting import render as reporting_render
    from convbatch.reporting.page.report_page import report_page
    from convbatch.reporting.report import DEFAULT_BY, UsageLog, grouping, sections_of
    from convbatch.reporting.runs import load_runs
    from convbatch.results.export import check_files, write_files
    from convbatch.results.filters import Matcher

    check_files(out or (), reporting_render.REPORT_PARTS)
    keys = grouping(by or DEFAULT_BY)
    matcher = Matcher(read_filters(filters))
    reported = load_runs(runs, config, currency)
    files, page = with_page(out or (), reported[0].run.path / "report.html") if open_it else (out or (), None)
    check_files(files, reporting_render.REPORT_PARTS)
    made = sections_of(reported, keys, matcher, UsageLog(bill, bill_form, config))
    write_files(reporting_render.report_content(made, keys, lambda: report_page(reported, made, matcher)), files)
    if json:
        typer.echo(printable_json(reporting_render.to_json(made, keys).decode()), nl=False)
    elif not files:
        reporting_render.to_terminal(made)
    if page is not None:
        open_page(page)
