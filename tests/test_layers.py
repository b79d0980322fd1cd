"""Modules that a process loads: no network code for reading, no pandas for a run, no tool code for the simulator.

import-linter (`make lint`) checks the import statements; these tests check `sys.modules` of real processes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).parent.parent
READERS = (("table", "out"), ("table", "out", "--wide", "reply"), ("show", "out"), ("runs",))


def loaded_by(code: str, folder: Path) -> set[str]:
    """Return the names of the modules that a process has loaded at its end."""
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
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Return a folder with one finished run, and the modules that the run loaded."""
    folder = tmp_path_factory.mktemp("finished_run")
    dataset = str(ROOT / "datasets" / "quickstart.jsonl")
    return folder, loaded_by(command("run", dataset, "-n", "2", "-o", "out", "--no-progress"), folder)


def test_a_run_loads_no_pandas(finished_run: tuple[Path, set[str]]) -> None:
    _, loaded = finished_run
    assert "convbatch.engine.runner" in loaded
    assert "pandas" not in loaded


def test_read_commands_load_no_module_that_sends(finished_run: tuple[Path, set[str]]) -> None:
    folder, _ = finished_run
    loaded = loaded_by("\n".join(command(*args) for args in READERS), folder)
    sends = {"aiohttp", "aiolimiter", "uvloop"}
    sends |= {
        f"convbatch.{name}"
        for name in (
            "session.session",
            "engine.runner",
            "engine.client",
            "engine.transport",
            "engine.limiter",
            "journal.writer",
            "config.credentials",
            "config.gateways",
        )
    }
    sends |= {name for name in loaded if name.startswith(("convbatch.protocols", "convbatch.simulator"))}
    assert "convbatch.cli.show" in loaded
    assert loaded & sends == set()


def test_the_simulator_loads_no_module_of_the_tool(tmp_path: Path) -> None:
    loaded = loaded_by("import convbatch.simulator.server", tmp_path)
    ours = {name for name in loaded if name.startswith("convbatch.") and not name.startswith("convbatch.simulator")}
    assert ours == set()
