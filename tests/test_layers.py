"""What a process loads: reading needs nothing that sends, running no pandas, the simulator nothing of ours.

Which file may import which is checked without running anything, by import-linter (`make lint`); here is what really
gets loaded.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "convbatch"
READERS = [("table", "out"), ("table", "out", "--wide", "reply"), ("show", "out"), ("runs",)]


def loaded_by(code: str, folder: Path) -> set[str]:
    """Names of the modules that a process has loaded at its end."""
    report = "\nimport sys; print('LOADED', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def command(*args: str) -> str:
    return (
        f"from convbatch.cli.main import app\ntry: app({args!r})\n"
        "except SystemExit as end: assert not end.code, end.code"
    )


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A folder with one finished run, and what running it loaded."""
    folder = tmp_path_factory.mktemp("played")
    dataset = str(ROOT / "datasets" / "quickstart.jsonl")
    return folder, loaded_by(command("run", dataset, "-n", "2", "-o", "out", "--no-progress"), folder)


def test_a_run_loads_no_pandas(played: tuple[Path, set[str]]) -> None:
    _, loaded = played
    assert "convbatch.engine.runner" in loaded
    assert "pandas" not in loaded


@pytest.mark.parametrize("args", READERS, ids=" ".join)
def test_reading_loads_nothing_that_can_send(args: tuple[str, ...], played: tuple[Path, set[str]]) -> None:
    folder, _ = played
    loaded = loaded_by(command(*args), folder)
    sends = {"aiohttp", "aiolimiter", "uvloop"}
    sends |= {
        f"convbatch.{name}"
        for name in (
            "session.session",
            "engine.runner",
            "engine.client",
            "engine.limiter",
            "journal.writer",
            "config.credentials",
            "config.gateways",
        )
    }
    sends |= {name for name in loaded if name.startswith(("convbatch.protocols", "convbatch.simulator"))}
    assert "convbatch.cli.show" in loaded
    assert loaded & sends == set()


def test_the_simulator_loads_nothing_of_the_tool(tmp_path: Path) -> None:
    loaded = loaded_by("import convbatch.simulator.server, convbatch.simulator.virtual_time", tmp_path)
    ours = {name for name in loaded if name.startswith("convbatch.") and not name.startswith("convbatch.simulator")}
    assert ours == set()


# What is written about it


def test_what_is_said_to_import_nothing_imports_nothing_of_ours() -> None:
    rows = re.findall(r"^\| (`.*?) \|.*\| nothing \|$", (ROOT / "ARCHITECTURE.md").read_text("utf-8"), re.MULTILINE)
    names = [name for cell in rows for name in re.findall(r"`([\w/]+\.py)`", cell)]
    code = re.compile(r"^\s*(?:from|import) convbatch\b", re.MULTILINE)
    assert "errors.py" in names
    assert [name for name in names if code.search((PACKAGE / name).read_text("utf-8"))] == []


def contracts() -> list[dict[str, list[str]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def layers() -> list[set[str]]:
    return [set(layer.split(" | ")) for layer in contracts()[0]["layers"]]


def test_every_file_has_its_layer() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    placed = [name for layer in layers() for name in layer]
    assert sorted(placed) == sorted(files | folders)


def test_the_gate_may_import_nothing_of_ours_but_its_arithmetic() -> None:
    (contract,) = (
        contract for contract in contracts() if "convbatch.engine.limiter" in contract.get("source_modules", [])
    )
    (depth,) = (depth for depth, layer in enumerate(layers()) if "engine" in layer)
    below = {f"convbatch.{name}" for layer in layers()[depth + 1 :] for name in layer}
    assert below - set(contract["forbidden_modules"]) == set()
