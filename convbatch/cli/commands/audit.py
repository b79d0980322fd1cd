"""`audit`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing, parse_share, typer_option


def audit(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...",
            help="Run folders, their names under results/, `latest`, or RUN:target.",
            autocompletion=completing("sides"),
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer_option("--reference", metavar="GATEWAY", help="Gateway or target to trust; default: the first."),
    ] = None,
    alpha: Annotated[
        float,
        typer_option("--alpha", parser=parse_share, metavar="FLOAT", help="Chance of any false alarm in the audit."),
    ] = 0.05,
    bill: Annotated[
        Path | None,
        typer.Option("--bill", metavar="FILE", help="A gateway's usage log (CSV), to test its counts.", readable=False),
    ] = None,
    bill_form: Annotated[
        str | None,
        typer.Option("--bill-form", metavar="NAME", help="Format of the usage log: new-api, or a [bills.NAME] table."),
    ] = None,
    monitor: Annotated[
        bool,
        typer.Option("--monitor", help="Daily runs of one target, the earliest a good one: a test to ask every day."),
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Ask all targets the shipped probes, then judge.", rich_help_panel="Plan")
    ] = False,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "-m",
            "--model",
            metavar="NAME",
            help="model@gateway, or a model for every -g.",
            rich_help_panel="Plan",
            autocompletion=completing("models"),
        ),
    ] = None,
    gateways: Annotated[
        list[str] | None,
        typer.Option(
            "-g",
            "--gateway",
            metavar="NAME",
            help="A gateway that serves the model.",
            rich_help_panel="Plan",
            autocompletion=completing("gateways"),
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", metavar="1USD", help="Cost cap of the run; exit 4 when reached.", rich_help_panel="Plan"
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            min=2,
            metavar="N",
            help="Repeats of each probe; default 16, or what the budget should pay for.",
            rich_help_panel="Plan",
        ),
    ] = None,
    language: Annotated[
        str,
        typer.Option(
            "--language",
            metavar="en|zh",
            help="Language of the probes.",
            rich_help_panel="Plan",
            autocompletion=completing("language"),
        ),
    ] = "en",
    with_datasets: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="DATASET",
            help="Mix own dialogues in, for gateways that know the probes.",
            readable=False,
            rich_help_panel="Plan",
        ),
    ] = None,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-output-tokens",
            min=1,
            metavar="N",
            help="Limit of a reply, for models that reason long; default 1024.",
            rich_help_panel="Plan",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-j", "--concurrency", min=1, metavar="N", help="In flight per target; default 16.", rich_help_panel="Plan"
        ),
    ] = None,
    rpm: Annotated[
        int | None,
        typer.Option("--rpm", min=1, metavar="N", help="Requests per minute, per quota owner.", rich_help_panel="Plan"),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="Read keys from this file.", rich_help_panel="Plan"),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="Gateways, prices and formats of bills.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "-o",
            "--out",
            metavar="PATH",
            help="Write FILE.html, .md or .json as well; with --plan also the run folder.",
        ),
    ] = None,
) -> None:
    """Test whether targets that claim one model are one model. Exit 0 consistent, 1 different, 3 inconclusive.

    Example: convbatch audit --plan -m MODEL -g reseller -g google --reference google --budget 1USD

    or, for a run that is there: convbatch audit latest --reference google -o audit.html
    """
    from convbatch.cli.audit import AuditRequest, PlanRequest, run_audit

    asked = PlanRequest(
        models=tuple(models or ()),
        gateways=tuple(gateways or ()),
        budget=budget,
        repeats=repeats,
        language=language,
        datasets=tuple(with_datasets or ()),
        max_output_tokens=max_output_tokens,
        concurrency=concurrency,
        rpm=rpm,
        env_file=env_file,
    )
    raise typer.Exit(
        run_audit(
            AuditRequest(
                runs=tuple(runs or ()),
                reference=reference,
                alpha=alpha,
                bill=bill,
                bill_form=bill_form,
                config=config,
                monitor=monitor,
                as_json=json,
                out=tuple(out or ()),
                plan=asked if plan else None,
                unplanned=() if plan else asked.given,
            )
        )
    )
