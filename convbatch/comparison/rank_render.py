"""Output of a ranking: a table and the proven differences on the terminal, Markdown, JSON; layout and wording only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

from convbatch.comparison.rank import Difference, Ranking, Standing
from convbatch.console import tables
from convbatch.console.html import html_table
from convbatch.console.markdown import md, md_row
from convbatch.console.tables import NONE
from convbatch.console.text import printable
from convbatch.dataset.reader import count_of
from convbatch.results.export import Content, Part, json_bytes

RANKING_PARTS: tuple[Part, ...] = ("value", "markdown", "page")
"""What a ranking can be written as."""
PAIRS_SHOWN = 30
"""On a terminal; files have all."""
GROUPS_NOTE = (
    "Targets that share a letter are not told apart. That does not make them equal, and it does not carry over: two "
    "that are each not told apart from a third may differ."
)
FRONT_NOTE = (
    "cheapest, fastest: no other target has a quality at least as high for less cost or time. These are point "
    "estimates, not proven differences."
)


def ranking_content(ranking: Ranking) -> Content:
    """Return what a ranking can be written as: one object, a Markdown page, or an HTML page."""

    def page() -> bytes:
        from convbatch.comparison.rank_page import ranking_page

        return ranking_page(ranking)

    return {"value": lambda: to_value(ranking), "markdown": lambda: to_markdown(ranking), "page": page}


def to_terminal(ranking: Ranking, *, file: IO[str] | None = None) -> None:
    """Print a ranking, the sentence first."""
    console = tables.console(file)
    tables.print_note(console, sentence(ranking), "bold")
    for line in facts(ranking):
        tables.print_note(console, line)
    console.print()
    _print(console, standing_headings(ranking), [standing_cells(ranking, one) for one in ranking.standings], (0, 3))
    tables.print_note(console, GROUPS_NOTE)
    tables.print_note(console, FRONT_NOTE)
    console.print()
    tables.print_note(console, "Differences, every pair", "bold underline")
    rows = [difference_cells(ranking, one) for one in _proven_first(ranking)]
    _print(console, difference_headings(ranking), rows[:PAIRS_SHOWN], (0, 1, 5))
    if len(rows) > PAIRS_SHOWN:
        tables.print_note(console, f"… and {len(rows) - PAIRS_SHOWN:,} more: -o FILE.md or .json")


def _print(console: Any, headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    grid = tables.make_table(*((name, "left" if n in left else "right") for n, name in enumerate(headings)))
    for row in rows:
        grid.add_row(*(tables.single_line_text(cell) for cell in row))
    console.print(grid)


def to_html_summary(ranking: Ranking) -> str:
    """Return a row per target as HTML, for a notebook."""
    rows = [standing_cells(ranking, one) for one in ranking.standings]
    return html_table(sentence(ranking), standing_headings(ranking), rows)


def to_markdown(ranking: Ranking) -> str:
    """Return the ranking as Markdown."""
    standings = [standing_cells(ranking, one) for one in ranking.standings]
    pairs = [difference_cells(ranking, one) for one in _proven_first(ranking)]
    parts = [
        f"## {md(printable(sentence(ranking)))}",
        "\n".join(f"- {md(printable(line))}" for line in facts(ranking)),
        _md_table(standing_headings(ranking), standings, (0, 3)),
        f"{md(GROUPS_NOTE)} {md(FRONT_NOTE)}",
        "### Differences, every pair",
        _md_table(difference_headings(ranking), pairs, (0, 1, 5)),
    ]
    return "\n\n".join(parts) + "\n"


def _md_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    lines = [md_row(headings), md_row(["---" if n in left else "---:" for n in range(len(headings))])]
    return "\n".join([*lines, *(md_row([md(printable(cell)) for cell in row]) for row in rows)])


def to_json(ranking: Ranking) -> bytes:
    """Return the ranking as JSON."""
    return json_bytes(to_value(ranking))


def to_value(ranking: Ranking) -> dict[str, Any]:
    """Return the ranking as one JSON object; its keys are a contract."""
    return {
        "summary": sentence(ranking),
        "exit_code": ranking.exit_code,
        "gate": ranking.gate,
        "fail_if_beaten": ranking.rules.fail_if_beaten,
        "metric": ranking.metric,
        "alpha": ranking.rules.alpha,
        "currency": ranking.currency,
        "dialogues": ranking.standings[0].dialogues,
        "left_out": dict(ranking.left_out),
        "targets": [standing_record(one) for one in ranking.standings],
        "pairs": [difference_record(one) for one in ranking.differences],
        "notes": list(ranking.notes),
    }


def standing_record(one: Standing) -> dict[str, Any]:
    """Return a target with the keys of `--json`; `ci` is the simultaneous interval."""
    record = {name: getattr(one, name) for name in Standing.__slots__}
    return {
        **record,
        "estimate": round(one.estimate, 12),
        "ci": [round(end, 12) for end in one.ci],
        "groups": one.groups.split(),
        "better_than": list(one.better_than),
        "worse_than": list(one.worse_than),
    }


def difference_record(one: Difference) -> dict[str, Any]:
    """Return a pair with the keys of `--json`; `difference` is second minus first."""
    result = one.result
    return {
        "first": one.first,
        "second": one.second,
        "dialogues": one.dialogues,
        "difference": None if result is None else round(result.difference, 12),
        "ci": None if one.ci is None else [round(end, 12) for end in one.ci],
        "p": None if result is None else result.p,
        "p_adjusted": one.p_adjusted,
        "test": None if result is None else result.test,
        "better": one.better,
        "why_open": one.why_open or None,
    }


# --- words -----------------------------------------------------------------------------------------------------------


def sentence(ranking: Ranking) -> str:
    """Return the result as one sentence."""
    count, proven, pairs = len(ranking.standings), len(ranking.proven), len(ranking.differences)
    best = ranking.standings[0]
    if not proven:
        return f"No difference between {count} targets is proven by {ranking.metric}"
    some = f"{proven:,} of {count_of(pairs, 'difference')} {'is' if proven == 1 else 'are'} proven"
    if len(best.better_than) == count - 1:
        return f"{best.name} is the best of {count} targets by {ranking.metric}, proven against each; {some}"
    open_ones = [one.name for one in ranking.standings if not one.worse_than]
    return f"{some} by {ranking.metric}; not proven worse than any other: {', '.join(open_ones)}"


def facts(ranking: Ranking) -> Iterator[str]:
    """Yield what was ranked and what limits it."""
    left_out = "; ".join(f"{count:,} {why}" for why, count in ranking.left_out.items())
    common = f"{count_of(ranking.standings[0].dialogues, 'dialogue')} with {ranking.metric} at every target"
    yield common + (f"; left out: {left_out}" if left_out else "")
    share = f"{100 * ranking.rules.alpha:.4g} %"
    yield (
        f"all intervals hold at once, and the chance of any false claim ({count_of(len(ranking.differences), 'pair')}) "
        f"is at most about {share}; each pair is compared on the dialogues that both have"
    )
    if ranking.rules.fail_if_beaten is not None:
        yield f"gate: {ranking.gate}, exit code {ranking.exit_code:d} (--fail-if-beaten {ranking.rules.fail_if_beaten})"
    yield from ranking.notes


def standing_headings(ranking: Ranking) -> tuple[str, ...]:
    """Return the headings of `standing_cells`."""
    unit = "" if ranking.currency is None else f" ({ranking.currency})"
    return ("target", ranking.metric, "interval", "not told apart", f"cost a dialogue{unit}", "s a turn", "front")


def standing_cells(ranking: Ranking, one: Standing) -> list[str]:
    """Return a target as texts."""
    fronts = ((one.on_cost_front, "cheapest"), (one.on_latency_front, "fastest"))
    return [
        one.name,
        value_text(ranking, one.estimate),
        f"{value_text(ranking, one.ci.low)} to {value_text(ranking, one.ci.high)}",
        one.groups,
        NONE if one.cost is None else f"{one.cost:.4g}",
        NONE if one.latency_s is None else f"{one.latency_s:.3g}",
        ", ".join(name for on, name in fronts if on) or NONE,
    ]


def difference_headings(ranking: Ranking) -> tuple[str, ...]:
    """Return the headings of `difference_cells`."""
    unit = "" if ranking.metric == "score" else " (points)"
    return ("from", "to", f"change{unit}", "interval", "p, adjusted", "result")


def difference_cells(ranking: Ranking, one: Difference) -> list[str]:
    """Return a pair as texts, from the target that stands higher to the lower one."""
    first, second, sign = oriented(ranking, one)
    result = one.result
    if result is None:
        return [first, second, NONE, NONE, NONE, difference_result(one)]
    ends = NONE
    if one.ci is not None:
        ends = " to ".join(_change_text(ranking, end) for end in sorted(sign * end for end in one.ci))
    p = NONE if one.p_adjusted is None else "< 0.001" if one.p_adjusted < 0.001 else f"{one.p_adjusted:.2g}"
    return [first, second, _change_text(ranking, sign * result.difference), ends, p, difference_result(one)]


def oriented(ranking: Ranking, one: Difference) -> tuple[str, str, int]:
    """Return the higher and the lower target, and the sign that makes a difference lower minus higher."""
    order = [standing.name for standing in ranking.standings]
    swapped = order.index(one.first) > order.index(one.second)
    return (one.second, one.first, -1) if swapped else (one.first, one.second, 1)


def difference_result(one: Difference) -> str:
    """Return what is known of a pair in words."""
    if one.why_open:
        return f"nothing concluded: {one.why_open}"
    return "not told apart" if one.better is None else f"proven: {one.better} is better"


def value_text(ranking: Ranking, value: float) -> str:
    """Format a rate or a score."""
    return f"{value:.3f}" if ranking.metric == "score" else f"{100 * value:.1f} %"


def _change_text(ranking: Ranking, value: float) -> str:
    if ranking.metric == "score":
        return f"{round(value, 3) + 0.0:+.3f}"
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # adding 0 makes -0 positive


def _proven_first(ranking: Ranking) -> list[Difference]:
    return sorted(ranking.differences, key=lambda one: one.better is None)
