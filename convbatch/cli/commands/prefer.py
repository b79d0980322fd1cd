"""`prefer`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.options import completing, parse_share, typer_option

JUDGE = "Asking the judge"


def prefer(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs to compare, with all their targets, or RUN:target; without --judge an earlier run of prefer.",
            autocompletion=completing("sides"),
        ),
    ],
    judge: Annotated[
        str | None,
        typer_option("--judge", metavar="MODEL@GATEWAY", help="Ask this model which replies are better."),
    ] = None,
    rubric: Annotated[
        str | None,
        typer_option("--rubric", metavar="TEXT", help="Compare whole dialogues by this, not by their prefer checks."),
    ] = None,
    alpha: Annotated[
        float,
        typer_option("--alpha", parser=parse_share, metavar="FLOAT", help="Chance of any false claim, over all pairs."),
    ] = 0.05,
    fail_if_beaten: Annotated[
        str | None,
        typer_option("--fail-if-beaten", help="Exit 1 if another target is proven to be preferred.", metavar="TARGET"),
    ] = None,
    allow_mismatch: Annotated[
        bool, typer_option("--allow-mismatch", help="Compare even if dialogues, history or checks differ.")
    ] = False,
    max_cost: Annotated[
        str | None,
        typer.Option("--max-cost", metavar="2USD", help="Cost cap; exit 4 when reached.", rich_help_panel=JUDGE),
    ] = None,
    max_tokens_total: Annotated[
        str | None,
        typer.Option(
            "--max-tokens-total", metavar="2M", help="Cap on input and output tokens; exit 4.", rich_help_panel=JUDGE
        ),
    ] = None,
    max_requests: Annotated[
        str | None,
        typer.Option("--max-requests", metavar="5k", help="Cap on requests; exit 4.", rich_help_panel=JUDGE),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print calls, tokens and cost; ask nothing.", rich_help_panel=JUDGE)
    ] = False,
    concurrency: Annotated[
        int | None,
        typer.Option("-j", "--concurrency", min=1, metavar="N", help="Questions in flight.", rich_help_panel=JUDGE),
    ] = None,
    rpm: Annotated[
        int | None,
        typer.Option("--rpm", min=1, metavar="N", help="Requests per minute, per quota owner.", rich_help_panel=JUDGE),
    ] = None,
    judge_max_output_tokens: Annotated[
        int | None,
        typer.Option(
            "--judge-max-output-tokens",
            min=1,
            metavar="N",
            help="Output limit of the judge, thoughts included.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    reuse: Annotated[
        str | None,
        typer.Option(
            "--reuse",
            metavar="RUN",
            help="Take the answers to the same questions from an earlier run of prefer.",
            rich_help_panel=JUDGE,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("-c", "--config", metavar="FILE", help="Config with the judge's gateway.", rich_help_panel=JUDGE),
    ] = None,
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", help="Read keys from this file.", rich_help_panel=JUDGE),
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No status lines.", rich_help_panel=JUDGE)] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option("-o", "--out", help="Write FILE.html, .md or .json as well; another path: the judge's run."),
    ] = None,
) -> None:
    """Ask a judge which of the targets it prefers, each pair in both orders; without --judge, read its answers.

    Example: convbatch prefer latest --rubric "Answers more precisely." --judge MODEL@GATEWAY
    """
    from convbatch.cli.prefer import PreferOptions, run_prefer

    options = PreferOptions(
        judge=judge,
        rubric=rubric,
        alpha=alpha,
        fail_if_beaten=fail_if_beaten,
        allow_mismatch=allow_mismatch,
        config=config,
        env_file=env_file,
        max_cost=max_cost,
        max_tokens_total=max_tokens_total,
        max_requests=max_requests,
        judge_max_output_tokens=judge_max_output_tokens,
        concurrency=concurrency,
        rpm=rpm,
        reuse=reuse,
        dry_run=dry_run,
        progress=not no_progress,
        as_json=json,
        out=tuple(out or ()),
    )
    raise typer.Exit(run_prefer(runs, options))
