"""`rank` and `judge-check`: their parameters, and one call each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convbatch.cli.commands.arguments import OtherConfig, RunArgument, ToCurrency
from convbatch.cli.options import parse_share, typer_option


def rank(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Runs, with all their targets, or RUN:target.")],
    metric: Annotated[
        str | None,
        typer_option("--metric", help="dialogue_pass, turn_pass or score; default the first there is.", metavar="NAME"),
    ] = None,
    alpha: Annotated[
        float,
        typer_option("--alpha", parser=parse_share, metavar="FLOAT", help="Chance of any false claim, over all pairs."),
    ] = 0.05,
    fail_if_beaten: Annotated[
        str | None,
        typer_option("--fail-if-beaten", help="Exit 1 if another target is proven better, else 0.", metavar="TARGET"),
    ] = None,
    allow_mismatch: Annotated[
        bool,
        typer_option(
            "--allow-mismatch", help="Rank even if dialogues, history or checks differ, or one model served two."
        ),
    ] = False,
    config: OtherConfig = None,
    currency: ToCurrency = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None, typer.Option("-o", "--out", help="Write FILE.html, .md or .json as well; repeatable.")
    ] = None,
) -> None:
    """Rank any number of targets on the same dialogues: which differences are proven, and what quality costs.

    Example: convbatch rank latest -o rank.html
    """
    from convbatch.cli.rank import RankOptions, run_rank

    options = RankOptions(metric=metric, alpha=alpha, fail_if_beaten=fail_if_beaten, allow_mismatch=allow_mismatch)
    raise typer.Exit(run_rank(runs, options, config=config, currency=currency, json=json, out=out or ()))


def judge_check(
    run: RunArgument,
    labels: Annotated[
        Path | None, typer.Argument(metavar="LABELS", help="People's labels: CSV, XLSX or JSON lines.")
    ] = None,
    template: Annotated[
        Path | None, typer.Option("--template", help="Write a file of replies to label, without the judge's verdicts.")
    ] = None,
    size: Annotated[int, typer_option("-n", "--size", min=1, help="Rows of the template.")] = 100,
    seed: Annotated[int, typer_option("--seed", help="Seed of the template's draw.")] = 0,
    fail_under: Annotated[
        float | None,
        typer_option("--fail-under", metavar="KAPPA", min=0, max=1, help="Kappa that must be reached, e.g. 0.6."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        list[Path] | None, typer.Option("-o", "--out", help="Write FILE.html, .md or .json as well; repeatable.")
    ] = None,
) -> None:
    """Tell how far a judge agrees with people's labels. With --fail-under: exit 0 reached, 1 missed, 3 undecided.

    Example: convbatch judge-check latest --template labels.csv
    """
    from convbatch.cli.judge_check import run_judge_check, write_template

    if template is not None:
        raise typer.Exit(write_template(run, labels, template, size=size, seed=seed))
    raise typer.Exit(run_judge_check(run, labels, fail_under=fail_under, json=json, out=out or ()))
