"""`compare`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from convbatch.cli.commands.arguments import OtherConfig, ToCurrency
from convbatch.cli.options import completing, parse_share, typer_option

if TYPE_CHECKING:
    from convbatch.comparison.compare import FailOn


def compare(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="A run, or RUN:target.", autocompletion=completing("sides"))
    ],
    candidate: Annotated[
        str, typer.Argument(metavar="CANDIDATE", help="A run, or RUN:target.", autocompletion=completing("sides"))
    ],
    metric: Annotated[
        str | None,
        typer_option(
            "--metric",
            help="Metric that decides; default dialogue_pass, else turn_pass, else score.",
            metavar="NAME",
            autocompletion=completing("metric"),
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer_option(
            "--margin",
            help="Largest accepted loss, e.g. 0.02 or 2%; default 0.02; for tokens, cost and latency 0.05.",
            parser=parse_share,
            metavar="SHARE",
        ),
    ] = None,
    alpha: Annotated[
        float, typer_option("--alpha", parser=parse_share, metavar="FLOAT", help="Significance level.")
    ] = 0.05,
    fail_on: Annotated[
        str | None,
        typer_option(
            "--fail-on",
            help="regression: exit 1 or 0; inconclusive: exit 1 on both.",
            metavar="VERDICT",
            autocompletion=completing("fail_on"),
        ),
    ] = None,
    strict: Annotated[bool, typer_option("--strict", help="Fail on a regression within the margin as well.")] = False,
    allow_mismatch: Annotated[
        bool,
        typer_option(
            "--allow-mismatch",
            help="Compare even if dialogues, history or checks differ, or one model served both sides.",
        ),
    ] = False,
    config: OtherConfig = None,
    currency: ToCurrency = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option("-o", "--out", help="Write FILE.html, .md, .json, or .xml (JUnit) as well; repeatable."),
    ] = None,
    open_it: Annotated[
        bool,
        typer.Option(
            "--open", help="Open the HTML page; without -o FILE.html it is compare.html in the candidate run."
        ),
    ] = False,
) -> None:
    """Test whether the candidate is worse than the base. Exit 0 no, 1 regression, 3 inconclusive, 2 not comparable.

    Example: convbatch compare latest:sim-good@simulator latest:sim-drift@simulator -o compare.html
    """
    from convbatch.cli.pages import open_page, with_page
    from convbatch.comparison import render as comparison_render
    from convbatch.comparison.compare import ComparisonRules, compare_runs
    from convbatch.comparison.inputs import CostOptions
    from convbatch.console.text import ignoring_broken_pipe, printable_json
    from convbatch.results.export import check_files, write_files

    check_files(out or (), comparison_render.COMPARISON_PARTS)
    rules = ComparisonRules(
        metric=metric, margin=margin, alpha=alpha, strict=strict, fail_on=cast("FailOn | None", fail_on)
    )
    costs = CostOptions(currency=currency, config=config)
    comparison = compare_runs(base, candidate, rules, allow_mismatch=allow_mismatch, costs=costs)
    files, page = out or (), None
    if open_it and comparison.selected is not None:
        files, page = with_page(files, comparison.selected[1].run.path / "compare.html")
    try:
        write_files(comparison_render.comparison_content(comparison), files)
        if page is not None:
            open_page(page)
    finally:
        with ignoring_broken_pipe():
            if json:
                typer.echo(printable_json(comparison_render.to_json(comparison).decode()), nl=False)
            else:
                comparison_render.to_terminal(comparison)
    raise typer.Exit(comparison.exit_code)
