"""`convbatch rank`: options → a ranking, printed and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convbatch.exit_codes import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOptions:
    """What decides the ranking."""

    metric: str | None
    alpha: float
    fail_if_beaten: str | None
    allow_mismatch: bool


def run_rank(
    runs: Sequence[str],
    options: RankOptions,
    *,
    config: Path | None,
    currency: str | None,
    json: bool,
    out: Sequence[Path],
) -> ExitCode:
    """Rank, write the files, print, and return the exit code."""
    from convbatch.comparison import rank_render
    from convbatch.comparison.inputs import CostOptions
    from convbatch.comparison.rank import RankRules, rank_runs
    from convbatch.console.text import ignoring_broken_pipe, printable_json
    from convbatch.results.export import check_files, write_files

    check_files(out, rank_render.RANKING_PARTS)
    rules = RankRules(metric=options.metric, alpha=options.alpha, fail_if_beaten=options.fail_if_beaten)
    costs = CostOptions(currency=currency, config=config)
    ranking = rank_runs(runs, rules, allow_mismatch=options.allow_mismatch, costs=costs)
    try:
        write_files(rank_render.ranking_content(ranking), out)
    finally:
        with ignoring_broken_pipe():
            if json:
                print(printable_json(rank_render.to_json(ranking).decode()), end="")  # noqa: T201
            else:
                rank_render.to_terminal(ranking)
    return ranking.exit_code
