"""Output of an audit: verdicts and evidence on the terminal, Markdown, and one JSON object. Wording and layout only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from convbatch.auditing.finding import AuditVerdict, Evidence, Finding, Question
from convbatch.auditing.judge import Audit, JudgedPair, JudgedQuestion
from convbatch.comparison.stats import Interval
from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.text import printable, shorten
from convbatch.dataset.reader import count_of
from convbatch.results.export import Content, Part, json_bytes
from convbatch.results.run import Run

if TYPE_CHECKING:
    from rich.console import Console

AUDIT_PARTS: tuple[Part, ...] = ("value", "markdown", "page")
"""What an audit can be written as."""
SHOWN_ON_TERMINAL = 2
"""Pieces of evidence of a question; Markdown and JSON have all."""
REPLY_SHOWN, PROMPT_SHOWN = 160, 100
VERDICTS: tuple[AuditVerdict, ...] = ("different", "inconclusive", "consistent")
"""The worst first."""
_STYLES: dict[AuditVerdict, str] = {"different": "bold red", "inconclusive": "yellow", "consistent": "green"}
HEADINGS = ("question", "verdict", "effect", "95 % interval", "p, Holm", "power")
_WORDS: dict[Question, tuple[str, str]] = {
    "served_name": ("names another model", "names another model"),
    "knowledge_border": ("knows less", "knows more"),
    "distribution": ("replies differently", "replies differently"),
    "obedience": ("obeys differently", "obeys differently"),
    "tools": ("calls tools or keeps schemas differently", "calls tools or keeps schemas differently"),
    "input_counts": ("counts the same prompts differently", "counts the same prompts differently"),
    "output_counts": ("counts more output tokens for as much text", "counts fewer output tokens for as much text"),
    "reasoning_tokens": ("reasons more", "reasons less"),
    "money": ("is billed for other counts", "is billed for other counts"),
    "replay": ("gives the same reply again more often", "gives the same reply again less often"),
}
"""What a difference means, for an effect above and below 0; in the order in which a sentence names them."""


def audit_content(audit: Audit, runs: Sequence[Run]) -> Content:
    """Return what an audit of runs can be written as: one object, a Markdown page, or an HTML page."""

    def page() -> bytes:
        from convbatch.auditing.page import audit_page

        return audit_page(audit, runs)

    return {"value": lambda: to_value(audit), "markdown": lambda: to_markdown(audit), "page": page}


def to_json(audit: Audit) -> bytes:
    """Return the audit as JSON."""
    return json_bytes(to_value(audit))


def to_value(audit: Audit) -> dict[str, Any]:
    """Return the audit as one JSON object; its keys are a contract."""
    return {
        "verdict": audit.verdict,
        "exit_code": int(audit.exit_code),
        "alpha": audit.alpha,
        "pairs": [
            {
                "reference": pair.reference,
                "candidate": pair.candidate,
                "verdict": pair.verdict,
                "questions": [question_record(one) for one in pair.questions],
            }
            for pair in audit.pairs
        ],
        "summary": "; ".join(sentences(audit)),
        "notes": list(audit.notes),
    }


def question_record(one: JudgedQuestion) -> dict[str, Any]:
    """Return a question as JSON."""
    finding = one.finding
    return {
        "question": finding.question,
        "verdict": one.verdict,
        "measure": finding.measure or None,
        "effect": finding.effect,
        "interval": None if finding.interval is None else list(finding.interval),
        "p": finding.p,
        "p_holm": one.p_holm,
        "power": finding.power,
        "power_for": None if finding.power is None else finding.power_for or finding.limit,
        "ruled_out": finding.limit if one.verdict == "consistent" else None,
        "needed": needed(one),
        "detail": finding.detail,
        "evidence": [_evidence_record(each) for each in finding.evidence],
    }


def needed(one: JudgedQuestion) -> str | None:
    """Return what a decision would take; None where there is one."""
    if one.verdict != "inconclusive":
        return None
    return one.finding.needed or one.finding.open or "more data of the same kind"


def _evidence_record(each: Evidence) -> dict[str, Any]:
    return {
        "dialogue": each.dialogue,
        "turn": each.turn,
        "prompt": each.prompt,
        "reference": each.reference,
        "candidate": each.candidate,
        "note": each.note or None,
    }


def sentences(audit: Audit) -> list[str]:
    """Return the verdict on each pair as a sentence, the worst first."""
    return [pair_sentence(pair) for pair in sorted(audit.pairs, key=lambda pair: VERDICTS.index(pair.verdict))]


def pair_sentence(pair: JudgedPair) -> str:
    """Return the verdict on a pair as one sentence: which target, and why."""
    head, number = pair.verdict.upper(), len(pair.questions)
    asked = count_of(number, "question")
    names = [one.finding.question for one in pair.questions if one.verdict == pair.verdict]
    match pair.verdict:
        case "different":
            found = {one.finding.question: one.finding for one in pair.questions if one.verdict == "different"}
            told = [_reason(found[question]) for question in _WORDS if question in found]
            return f"{head}: {pair.candidate} is not like {pair.reference}: it {', '.join(told)}"
        case "consistent":
            return f"{head}: {pair.candidate} is like {pair.reference}: {asked}, each with power to find a difference"
        case "inconclusive" if not names:
            why = "only what the gateways say about themselves could be compared" if number else "nothing to compare"
            return f"{head}: {pair.candidate} against {pair.reference}: {why}"
        case "inconclusive":
            return (
                f"{head}: {pair.candidate} against {pair.reference}: no difference found, "
                f"but {len(names)} of {asked} cannot be decided yet ({', '.join(names)})"
            )


def _reason(finding: Finding) -> str:
    """Return what a difference means, with the name of its question."""
    more, less = _WORDS[finding.question]
    return f"{less if (finding.effect or 0) < 0 else more} ({finding.question})"


def to_terminal(audit: Audit, *, file: IO[str] | None = None) -> None:
    """Print an audit, the verdicts first, on a terminal also last; details only of what differs or is open."""
    console = tables.console(file)
    _print_verdicts(console, audit)
    for note in audit.notes:
        tables.print_note(console, note, "bold" if note.startswith("SIMULATED") else "")
    for pair in audit.pairs:
        if not pair.questions:
            continue
        console.print()
        tables.print_note(console, f"{pair.candidate} against {pair.reference}", "bold")
        grid = tables.make_table(*HEADINGS)
        for one, row in zip(pair.questions, question_rows(pair), strict=True):
            styles = ["", _STYLES[one.verdict], *("" for _ in row[2:])]
            grid.add_row(*map(tables.single_line_text, row, styles))
        console.print(grid)
        for one in pair.questions:
            if one.verdict != "consistent":
                for line, indent in _lines(one):
                    tables.print_note(console, line, indent=indent)
    if tables.screen_width(console) is not None:  # the first lines have scrolled away
        console.print()
        _print_verdicts(console, audit)


def _print_verdicts(console: Console, audit: Audit) -> None:
    for line in sentences(audit):
        tables.print_note(console, line, _STYLES[_verdict_of(line)])


def _verdict_of(line: str) -> AuditVerdict:
    return next(verdict for verdict in _STYLES if line.startswith(verdict.upper()))


def question_rows(pair: JudgedPair) -> Iterator[list[str]]:
    """Yield the cells of `HEADINGS` for each question."""
    for one in pair.questions:
        finding = one.finding
        yield [
            finding.question,
            one.verdict,
            _number(finding.effect, signed=True),
            tables.NONE if finding.interval is None else _interval(finding.interval),
            tables.NONE if one.p_holm is None else f"{one.p_holm:.2g}",
            _power(finding),
        ]


def _power(finding: Finding) -> str:
    """Return the power with the effect that it is for."""
    if finding.power is None:
        return tables.NONE
    size = finding.power_for or finding.limit
    return f"{finding.power:.2f} for {_number(size)}" if size else f"{finding.power:.2f}"


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return tables.NONE
    return f"{_rounded(value, signed=signed)} %"


def _rounded(value: float, *, signed: bool = True) -> str:
    """Return a share in percent: to two digits, a hundred and more whole."""
    percent = value * 100
    digits = 0 if abs(percent) >= 99.5 else 2
    text = f"{percent:.0f}" if digits == 0 else f"{percent:.{digits}g}"
    return text if text.startswith("-") or not signed or float(text) == 0 else f"+{text}"


def _interval(interval: Interval) -> str:
    return f"{_rounded(interval.low)} to {_rounded(interval.high)} %"


def _lines(one: JudgedQuestion, *, shown: int = SHOWN_ON_TERMINAL) -> Iterator[tuple[str, int]]:
    """Yield the lines below the table, with their indent."""
    finding = one.finding
    first, *others = finding.detail.split("; ")
    yield f"{finding.question}, {one.verdict}: {first}", 2
    yield from ((other, 4) for other in others)
    if finding.effect is not None and finding.measure:
        yield f"effect: {finding.measure}", 4
    if (what := needed(one)) is not None:
        yield f"a decision would take: {what}", 4
    if one.verdict != "different":
        return
    for each in finding.evidence[:shown]:
        yield f"{each.dialogue} turn {each.turn}: {_cut(each.prompt, PROMPT_SHOWN)}", 4
        for name, text in (("reference", each.reference), ("candidate", each.candidate)):
            if text is not None:
                yield f"{name}: {_cut(text, REPLY_SHOWN) or '(empty)'}", 6
        if each.note:
            yield each.note, 6
    if len(finding.evidence) > shown:
        yield f"and {len(finding.evidence) - shown} more, in full: -o audit.html", 4


def _cut(text: str, most: int) -> str:
    return shorten(" ".join(text.split()), most)


def to_markdown(audit: Audit) -> str:
    """Return the audit as a Markdown page."""
    first, *others = sentences(audit)
    parts = [f"## {md(printable(first))}"]
    if others or audit.notes:
        parts.append("\n".join(f"- {md(printable(line))}" for line in (*others, *audit.notes)))
    for pair in audit.pairs:
        parts.append(f"### {md(printable(f'{pair.candidate} against {pair.reference}: {pair.verdict}'))}")
        if not pair.questions:
            continue
        parts.append(_md_table(HEADINGS, list(question_rows(pair))))
        lines = [
            (line, indent) for one in pair.questions for line, indent in _lines(one, shown=len(one.finding.evidence))
        ]
        parts.append("\n".join(f"{' ' * (indent - 2)}- {md(printable(line))}" for line, indent in lines))
    return "\n\n".join(parts) + "\n"


def _md_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [md_row(headings), md_row(["---"] * len(headings))]
    return "\n".join([*lines, *(md_row([md(printable(cell)) for cell in row]) for row in rows)])
