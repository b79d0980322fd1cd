"""JUnit XML as a CI system reads it: by junitparser, which knows nothing of how it was written."""

from __future__ import annotations

from dataclasses import dataclass

from junitparser import Error, Failure, JUnitXml, Skipped, TestSuite


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCase:
    """A test case with its only result."""

    name: str
    result: str
    message: str
    text: str


def junit_cases(content: bytes) -> list[ReadCase]:
    """Parse a file of one suite, and check that the counts it states are those of its cases."""
    document = JUnitXml.fromstring(content)
    [suite] = list(document)
    assert isinstance(suite, TestSuite)
    cases: list[ReadCase] = []
    for case in suite:
        assert len(case.result) <= 1
        result = case.result[0] if case.result else None
        kinds = ((Failure, "failure"), (Error, "error"), (Skipped, "skipped"))
        kind = next((name for known, name in kinds if isinstance(result, known)), "passed")
        message = "" if result is None else str(result.message)
        text = (result.text if kind in ("failure", "error") and result is not None else case.system_out) or ""
        cases.append(ReadCase(name=str(case.name), result=kind, message=message, text=text))
    results = [case.result for case in cases]
    counts = (len(cases), results.count("failure"), results.count("error"), results.count("skipped"))
    for counted in (document, suite):
        assert (counted.tests, counted.failures, counted.errors, counted.skipped) == counts
    return cases
