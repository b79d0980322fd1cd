"""Output of an audit: verdicts and evidence on the terminal, Markdown, and one JSON object. Wording and layout only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

from convbatch.auditing.finding import AuditVerdict, Evidence
from convbatch.auditing.judge import Audit, JudgedPair, JudgedQuestion
from convbatch.comparison.stats import Interval
from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.text import printable, shorten
from convbatch.results.export import Content, Part, json_bytes
from convbatch.results.run import Run

AUDIT_PARTS: tuple[Part, ...] = ("value", "markdown", "page")
"""What an audit can be written as."""
SHOWN_ON_TERMINAL = 2
"""Pieces of evidence of a question; Markdown and JSON have all."""
REPLY_SHOWN, PROMPT_SHOWN = 160, 100
_STYLES: dict[AuditVerdict, str] = {"different": "bold red", "inconclusive": "yellow", "consistent": "green"}
HEADINGS = ("question", "verdict", "effect", "95 % interval", "p, Holm", "power", "for")


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
        "summary": sentence(audit),
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
    reasons = [one.finding.open if one.finding.open != one.finding.detail else None, one.finding.needed]
    return "; ".join(dict.fromkeys(filter(None, reasons))) or "data that can be asked this: see the detail"


def _evidence_record(each: Evidence) -> dict[str, Any]:
    return {
        "dialogue": each.dialogue,
        "turn": each.turn,
        "prompt": each.prompt,
        "reference": each.reference,
        "candidate": each.candidate,
        "note": each.note or None,
    }


def sentence(audit: Audit) -> str:
    """Return the verdict as one sentence."""
    head = audit.verdict.upper()
    pairs = [pair for pair in audit.pairs if pair.verdict == audit.verdict]
    names = ", ".join(f"{pair.candidate} against {pair.reference}" for pair in pairs)
    match audit.verdict:
        case "different":
            told = sorted({q.finding.question for pair in pairs for q in pair.questions if q.verdict == "different"})
            return f"{head}: {names}: {', '.join(told)}"
        case "consistent":
            return f"{head}: {names}: no question found a difference, and each could have found the effect it names"
        case "inconclusive":
            return f"{head}: {names}: nothing differs so far, and some questions cannot tell"


def to_terminal(audit: Audit, *, file: IO[str] | None = None) -> None:
    """Print an audit, the verdict first."""
    console = tables.console(file)
    tables.print_note(console, sentence(audit), _STYLES[audit.verdict])
    for note in audit.notes:
        tables.print_note(console, note, "bold" if note.startswith("SIMULATED") else "")
    for pair in audit.pairs:
        console.print()
        tables.print_note(console, f"{pair.candidate} against {pair.reference}: {pair.verdict}", _STYLES[pair.verdict])
        grid = tables.make_table(*HEADINGS)
        for row in question_rows(pair):
            grid.add_row(*map(tables.single_line_text, row))
        console.print(grid)
        for one in pair.questions:
            for line, indent in _lines(one):
                tables.print_note(console, line, indent=indent)


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
            tables.NONE if finding.power is None else f"{finding.power:.2f}",
            tables.NONE if not finding.limit else _number(finding.power_for or finding.limit),
        ]


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return tables.NONE
    return f"{value * 100:+.3g} %" if signed else f"{value * 100:.3g} %"


def _interval(interval: Interval) -> str:
    return " to ".join(_number(limit, signed=True) for limit in interval)


def _lines(one: JudgedQuestion, *, shown: int = SHOWN_ON_TERMINAL) -> Iterator[tuple[str, int]]:
    """Yield the lines below the table, with their indent."""
    finding = one.finding
    first, *others = finding.detail.split("; ")
    yield f"{finding.question}: {first}", 2
    yield from ((other, 4) for other in others)
    if (what := needed(one)) is not None:
        yield f"a decision would take: {what}", 4
    if one.verdict != "different":
        return
    for each in finding.evidence[:shown]:
        yield f"{each.dialogue} turn {each.turn}: {_cut(each.prompt, PROMPT_SHOWN)}", 4
        for name, text in (("reference", each.reference), ("candidate", each.candidate)):
            if text is not None:
                yield f"{name}: {_cut(text, REPLY_SHOWN)}", 6
        if each.note:
            yield each.note, 6


def _cut(text: str, most: int) -> str:
    return shorten(" ".join(text.split()), most)


def to_markdown(audit: Audit) -> str:
    """Return the audit as a Markdown page."""
    parts = [f"## {md(printable(sentence(audit)))}"]
    if audit.notes:
        parts.append("\n".join(f"- {md(printable(note))}" for note in audit.notes))
    for pair in audit.pairs:
        parts.append(f"### {md(printable(f'{pair.candidate} against {pair.reference}: {pair.verdict}'))}")
        parts.append(_md_table(HEADINGS, list(question_rows(pair))))
        lines = [
            (line, indent) for one in pair.questions for line, indent in _lines(one, shown=len(one.finding.evidence))
        ]
        parts.append("\n".join(f"{' ' * (indent - 2)}- {md(printable(line))}" for line, indent in lines))
    return "\n\n".join(parts) + "\n"


def _md_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [md_row(headings), md_row(["---"] * len(headings))]
    return "\n".join([*lines, *(md_row([md(printable(cell)) for cell in row]) for row in rows)])
