"""The example notebook runs in a real kernel, and is kept without output."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import environment

NOTEBOOK = Path(__file__).parents[1] / "docs" / "examples" / "notebook.ipynb"


def cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_output() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(NOTEBOOK))


@pytest.mark.slow
def test_the_notebook_runs_and_shows_its_tables(tmp_path: Path) -> None:
    copy = Path(shutil.copy(NOTEBOOK, tmp_path))
    folders = {name: str(tmp_path / name) for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-execute"), "--inplace", copy],
        cwd=tmp_path,
        env=environment() | folders,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = ["".join(out["data"]["text/plain"]) for cell in cells(copy) for out in cell["outputs"]]
    assert shown[0] == "<convbatch.Dataset: 30 dialogues, 60 turns>"
    assert any("sim-good@demo is the best of 2 targets" in one for one in shown)
    assert any("sim-drift@demo" in one and "cost" in one for one in shown)
    assert list((tmp_path / "results").iterdir())
