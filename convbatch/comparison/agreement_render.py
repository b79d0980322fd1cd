"""Output of `judge-check`: a verdict in words and tables on the terminal, Markdown, JSON, an HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from convbatch.comparison.agreement import TRUSTED, WEAK, Agreement, ClassMeasures, Disagreement, Estimate, Measures
from convbatch.console import tables
from convbatch.console.markdown import md, md_row
from convbatch.console.tables import NONE
from convbatch.console.text import printable, shorten
from convbatch.results.export import Content, Part, json_bytes

AGREEMENT_PARTS: tuple[Part, ...] = ("value", "markdown", "page")
DISAGREEMENTS_SHOWN, DISAGREEMENTS_WRITTEN = 10, 200
_REASON = 300


class AgreementTable(NamedTuple):
    """A table as texts."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)


def agreement_content(found: Agreement) -> Content:
    """Return what it can be written as: one object, a Markdown page, or an HTML page."""

    def page() -> bytes:
        from convbatch.comparison.agreement_page import agreement_page

        return agreement_page(found)

    return {"value": lambda: to_value(found), "markdown": lambda: to_markdown(found), "page": page}


def to_terminal(found: Agreement, *, file: IO[str] | None = None) -> None:
    """Print it, the verdict first."""
    console = tables.console(file)
    tables.print_note(console, sentence(found), "bold")
    for line in facts(found):
        tables.print_note(console, line)
    for table in all_tables(found):
        console.print()
        tables.print_note(console, table.title, "bold underline")
        grid = tables.make_table(*((name, "left" if n in table.left else "right")
                                   for n, name in enumerate(table.headings)))  # fmt: skip
        for row in table.rows:
            grid.add_row(*(tables.single_line_text(cell) for cell in row))
        console.print(grid)
    if not found.disagreements:
        return
    console.print()
    tables.print_note(console, disagreements_title(found), "bold underline")
    for one in found.disagreements[:DISAGREEMENTS_SHOWN]:
        for indent, line in zip((0, 2, 2), disagreement_lines(found, one), strict=True):
            tables.print_note(console, line, indent=indent)
    if (left := len(found.disagreements) - DISAGREEMENTS_SHOWN) > 0:
        tables.print_note(console, f"… and {left:,} more: -o FILE.html, .md or .json")


def to_markdown(found: Agreement) -> str:
    """Return it as Markdown."""
    parts = [f"## {md(printable(sentence(found)))}", "\n".join(f"- {md(printable(line))}" for line in facts(found))]
    for table in all_tables(found):
        marks = ["---" if n in table.left else "---:" for n in range(len(table.headings))]
        rows = [md_row([md(printable(cell)) for cell in row]) for row in table.rows]
        parts += [f"### {table.title}", "\n".join([md_row(table.headings), md_row(marks), *rows])]
    if found.disagreements:
        parts.append(f"### {disagreements_title(found)}")
        for one in found.disagreements[:DISAGREEMENTS_WRITTEN]:
            head, *rest = disagreement_lines(found, one)
            parts.append("\n".join([f"- {md(printable(head))}", *(f"  - {md(printable(line))}" for line in rest)]))
    return "\n\n".join(parts) + "\n"


def to_json(found: Agreement) -> bytes:
    """Return it as JSON."""
    return json_bytes(to_value(found))


def to_value(found: Agreement) -> dict[str, Any]:
    """Return it as one JSON object; its keys are a contract."""
    return {
        "summary": sentence(found),
        "exit_code": found.exit_code,
        "gate": found.gate,
        "fail_under": found.fail_under,
        "run": found.run,
        "file": found.file,
        "judges": list(found.judges),
        "is_score": found.is_score,
        "labels": found.labels,
        "unfilled": found.unfilled,
        "judge": _record(found.overall),
        "classes": [{**_class_counts(one), "precision": _plain(one.precision), "recall": _plain(one.recall)}
                    for one in found.classes],
        "people": None if found.people is None else _record(found.people),
        "by_rater": {name: _record(one) for name, one in found.by_rater.items()},
        "by_check": {name: _record(one) for name, one in found.by_check.items()},
        "by_tag": {name: _record(one) for name, one in found.by_tag.items()},
        "disagreements": [disagreement_record(one) for one in found.disagreements],
        "without_verdict": [key._asdict() for key in found.without_verdict],
        "tied": [key._asdict() for key in found.tied],
    }  # fmt: skip


def _record(one: Measures) -> dict[str, Any]:
    return {
        "items": one.items,
        "dialogues": one.dialogues,
        "accuracy": _plain(one.accuracy),
        "kappa": _plain(one.kappa),
        "mean_difference": one.mean_difference,
    }


def _plain(one: Estimate) -> dict[str, Any]:
    return {"estimate": one.value, "ci95": None if one.ci is None else list(one.ci)}


def _class_counts(one: ClassMeasures) -> dict[str, Any]:
    return {"class": one.name, "people": one.people, "judge": one.judge, "both": one.both}


def disagreement_record(one: Disagreement) -> dict[str, Any]:
    """Return an item with the keys of `--json`."""
    names = ("people", "judge", "people_reason", "judge_reason", "place")
    return {**one.key._asdict(), **{name: getattr(one, name) for name in names}}


# --- words -----------------------------------------------------------------------------------------------------------


def sentence(found: Agreement) -> str:
    """Return what the interval of kappa allows to say."""
    kappa = found.overall.kappa
    if kappa.value is None:
        return (
            "KAPPA UNKNOWN: people and judge gave one value only, so that chance alone would agree; "
            "label replies of both kinds"
        )
    if kappa.ci is None:
        return f"UNDECIDED: kappa {kappa.value:.2f} in one dialogue; label replies of more dialogues"
    numbers = f"kappa {kappa.value:.2f}, 95 % interval {kappa.ci.low:.2f} to {kappa.ci.high:.2f}"
    if kappa.ci.low >= TRUSTED:
        return f"TRUSTED: the judge agrees substantially with people ({numbers})"
    if kappa.ci.high < WEAK:
        return f"NOT TRUSTED: the judge agrees weakly with people at best ({numbers})"
    if kappa.ci.low > 0:
        return (
            f"UNDECIDED: the judge agrees with people beyond chance, but not surely by a kappa of {TRUSTED:g} "
            f"({numbers})"
        )
    return f"UNDECIDED: it is not shown that the judge agrees with people beyond chance ({numbers})"


def facts(found: Agreement) -> Iterator[str]:
    """Yield what was compared, and what limits it."""
    one = found.overall
    yield f"judge {', '.join(found.judges) or 'unknown'}; {found.file}: {found.labels:,} labels"
    yield f"{one.items:,} items in {one.dialogues:,} dialogues; intervals take dialogues as the unit"
    left_out = (
        (found.unfilled, "rows without a label"),
        (len(found.without_verdict), "without a verdict of the judge"),
        (len(found.tied), "without a majority of people"),
    )
    for count, what in left_out:
        if count:
            yield f"left out: {count:,} {what}"
    if found.people is not None:
        kappa = estimate_text(found.people.kappa)
        yield f"people with each other: kappa {kappa}; a judge cannot be expected to do better"
    if one.mean_difference is not None:
        yield f"the judge's scores are on average {one.mean_difference:+.3f} apart from people's; kappa is weighted"
    if found.fail_under is not None:
        yield f"gate: {found.gate}, exit code {found.exit_code:d} (--fail-under {found.fail_under:g})"


def all_tables(found: Agreement) -> Iterator[AgreementTable]:
    """Yield the tables, in order."""
    headings = ("", "items", "dialogues", "same", "95 % interval", "kappa", "95 % interval")
    rows = [_cells("judge and people", found.overall)]
    rows += [_cells("people with each other", found.people)] if found.people is not None else []
    rows += [_cells(f"judge and {name}", one) for name, one in found.by_rater.items()]
    yield AgreementTable("Agreement", headings, rows)
    if found.classes:
        classes = [
            [one.name, f"{one.people:,}", f"{one.judge:,}", f"{one.both:,}",
             estimate_text(one.precision), estimate_text(one.recall)]
            for one in found.classes
        ]  # fmt: skip
        columns = ("class", "people", "judge", "both", "precision of the judge", "recall of the judge")
        yield AgreementTable("By class", columns, classes)
        fail, passed = found.classes
        confusion = [
            ["people: fail", f"{fail.both:,}", f"{fail.people - fail.both:,}"],
            ["people: pass", f"{passed.people - passed.both:,}", f"{passed.both:,}"],
        ]
        yield AgreementTable("Confusion", ("", "judge: fail", "judge: pass"), confusion)
    for title, parts in (("By check", found.by_check), ("By tag, exploratory", found.by_tag)):
        if parts:
            yield AgreementTable(title, headings, [_cells(name, one) for name, one in parts.items()])


def _cells(name: str, one: Measures) -> list[str]:
    return [name, f"{one.items:,}", f"{one.dialogues:,}", *_two(one.accuracy), *_two(one.kappa)]


def _two(one: Estimate) -> list[str]:
    return [
        NONE if one.value is None else f"{one.value:.2f}",
        NONE if one.ci is None else f"{one.ci.low:.2f} to {one.ci.high:.2f}",
    ]


def estimate_text(one: Estimate) -> str:
    """Format an estimate with its interval."""
    value, ends = _two(one)
    return value if ends == NONE else f"{value} ({ends})"


def disagreements_title(found: Agreement) -> str:
    """Return how many items differ."""
    more = " by more than 0.25" if found.is_score else ""
    return f"Judge and people differ{more}: {len(found.disagreements):,} of {found.overall.items:,}"


def disagreement_lines(found: Agreement, one: Disagreement) -> tuple[str, str, str]:
    """Return an item: where, what people said, what the judge said."""
    people, judge = (
        f"{value:.2f}" if found.is_score else "pass" if value else "fail" for value in (one.people, one.judge)
    )
    reason = f": {shorten(one.people_reason, _REASON)}" if one.people_reason else ""
    return (
        f"{one.key} ({one.place})",
        f"people: {people}{reason}",
        f"judge: {judge}: {shorten(one.judge_reason, _REASON)}",
    )
