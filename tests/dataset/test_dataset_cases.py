"""Dataset files from the field, and what the command must do with each: `tests/dataset_cases/index.json` says how."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from convbatch.results.parquet import read_rows
from convbatch.results.run import load
from tests.conftest import Command, Finished

CASES = Path(__file__).parents[1] / "dataset_cases"
RUN = {"run": ("-m", "sim-good@simulator", "-o", "r", "--no-progress")}
"""Options of a command; the simulator gives the scripted replies."""
INDEX: dict[str, Any] = json.loads((CASES / "index.json").read_text(encoding="utf-8"))


def holds(canonical: Path, carried: dict[str, Any]) -> bool:
    """Whether the canonical file has a text at a key of a line."""
    value: Any = json.loads(canonical.read_text(encoding="utf-8").splitlines()[carried["line"] - 1])
    for step in carried["at"].split("."):
        value = value[int(step)] if isinstance(value, list) else value.get(step, {})
    return carried["holds"] in json.dumps(value, ensure_ascii=False)


def misjudged(judged: dict[str, Any]) -> list[str]:
    """Return which checks of the run in `r` have another verdict than wanted, or a reason that shows no difference."""
    columns = ("dialogue", "check", "passed", "reason")
    rows = list(read_rows(load("r").verdicts_path, columns))
    by_name = {f"{dialogue} {check}": passed for dialogue, check, passed, _ in rows}
    found = [f"{name} has not passed" for name in judged.get("passed", ()) if by_name[name] is not True]
    found += [f"{name} has passed" for name in judged.get("not_passed", ()) if by_name[name] is not False]
    for dialogue, _, passed, reason in rows if judged.get("different") else ():
        shown = re.findall(r'"([^"]*)"', reason)
        if passed or len(shown) < 2 or shown[0] == shown[1]:
            found.append(f"{dialogue}: {reason!r} shows no difference")
    return found


def misses(wanted: dict[str, Any], done: Finished, canonical: Path) -> list[str]:
    """Return what an outcome lacks of what is wanted."""
    said = done.out + done.err
    found = [f"exit {done.code}"] if done.code not in ((0, 2) if wanted["exit"] is None else (wanted["exit"],)) else []
    for words in wanted["stdout_or_stderr_has"]:
        if not any(word in said for word in words.split("|")):
            found.append(f"does not say {words!r}")
    found += [f"says {word!r}" for word in wanted["has_not"] if word in said]
    if wanted["place"] is not None and wanted["place"] not in said:
        found.append(f"no place {wanted['place']}")
    if "lines" in wanted and not any(re.search(rf"(:|line ){line}\b", said) for line in wanted["lines"]):
        found.append(f"names none of the lines {wanted['lines']}")
    if said.count("\n") > wanted.get("most_lines", 10_000):
        found.append(f"{said.count(chr(10))} lines")
    for carried in wanted.get("carried", ()):
        if not canonical.exists() or not holds(canonical, carried):
            found.append(f"does not carry {carried}")
    return [*found, *(misjudged(wanted["judged"]) if "judged" in wanted else ())]


@pytest.mark.parametrize("name", [name for name in INDEX if name != "_about"])
def test_a_file_from_the_field_has_one_of_the_wanted_outcomes(name: str, tmp_path: Path, convbatch: Command) -> None:
    case = INDEX[name]
    (tmp_path / name).write_bytes((CASES / name).read_bytes())
    converted = convbatch("convert", name, "canonical.jsonl", *case.get("args", ()))
    more = RUN.get(case["command"], ())
    done = converted if case["command"] == "convert" else convbatch(case["command"], name, *more)
    outcomes = [case["expect"], *case.get("or", ())]
    found = [misses(wanted, done, tmp_path / "canonical.jsonl") for wanted in outcomes]
    assert [] in found, f"{found}\n{done.out}{done.err}"
