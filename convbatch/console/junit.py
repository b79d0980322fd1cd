"""JUnit XML, as CI systems read it: one suite of test cases with the counts that they imply.

Which cases there are, and which fail, is decided by the commands that write a suite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from convbatch.console.text import printable, printable_lines
from convbatch.exit_codes import ExitCode, GateResult, gate_result

CaseOutcome = Literal["passed", "failure", "error", "skipped"]
_COUNTED: Mapping[CaseOutcome, str] = {"failure": "failures", "error": "errors", "skipped": "skipped"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JUnitCase:
    """A test case."""

    classname: str
    name: str
    outcome: CaseOutcome = "passed"
    message: str = ""
    """Reason of an outcome other than `passed`."""
    text: str = ""
    """Details below the reason; of a case that passed or is skipped, its output."""


def gate_outcome(exit_code: ExitCode) -> CaseOutcome:
    """Return the outcome of the case that is the verdict: a failure at 1, an error at any other code but 0."""
    outcomes: Mapping[GateResult, CaseOutcome] = {"passed": "passed", "failed": "failure", "undecided": "error"}
    return outcomes[gate_result(exit_code)]


def junit_xml(name: str, cases: Sequence[JUnitCase], properties: Mapping[str, str]) -> bytes:
    """Return a suite as JUnit XML; control characters are escaped as on a terminal."""
    outcomes = Counter(case.outcome for case in cases)
    counts = {attribute: str(outcomes[outcome]) for outcome, attribute in _COUNTED.items()}
    attributes = _escaped({"name": name, "tests": str(len(cases)), **counts})
    root = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    listed = ElementTree.SubElement(suite, "properties")
    for key, value in properties.items():
        ElementTree.SubElement(listed, "property", _escaped({"name": key, "value": value}))
    for case in cases:
        _add_case(suite, case)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _add_case(suite: ElementTree.Element, case: JUnitCase) -> None:
    element = ElementTree.SubElement(suite, "testcase", _escaped({"classname": case.classname, "name": case.name}))
    is_failed = case.outcome in ("failure", "error")
    if case.outcome != "passed":
        reason = ElementTree.SubElement(element, case.outcome, _escaped({"message": case.message}))
        if is_failed:
            reason.text = _escape(case.text)
    if case.text and not is_failed:
        ElementTree.SubElement(element, "system-out").text = _escape(case.text)


def _escaped(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: _escape(printable(value)) for name, value in attributes.items()}


def _escape(text: str) -> str:
    """Escape control characters, most of which XML cannot represent."""
    return printable_lines(text).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
