"""Each section of `python -m benchmarks` runs to its end; whether its figures are good is what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.flame import WIDTH, drawn, own_shares

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^ *(\S.*?  +\S.*?)  +\S.*?  +\S.*?  +(-?\d[\d.]*)(?:  +[<>].*)?$")
"""What and against what, and the ratio; the difference of two noisy figures may be negative."""


def benchmarks(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--folder", str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def ratios(folder: Path, *arguments: str) -> dict[str, float]:
    """Return the ratio of each row of the table."""
    done = benchmarks(folder, *arguments)
    assert done.returncode == 0, done.stderr
    table, _, _ = done.stdout.partition("\n\nPython ")
    found = {row[1]: float(row[2]) for row in map(ROW.match, table.splitlines()) if row}
    assert list(folder.iterdir()) == [], "files are left behind"
    return found


@pytest.mark.slow
def test_help_and_start_are_measured_against_a_bare_app_and_loop(tmp_path: Path) -> None:
    found = ratios(tmp_path, "-s", "help", "-s", "start")
    assert [name.partition(",")[0] for name in found] == ["--help"] * 2 + ["start to first request"] * 2
    assert all(0.5 < ratio < 50 for ratio in found.values()), found


def test_without_a_peer_the_message_has_the_line_that_installs_them(tmp_path: Path) -> None:
    done = benchmarks(tmp_path, "-s", "peers", "--peers", str(tmp_path / "no-python"))
    assert done.returncode == 1
    assert f"error: {tmp_path / 'no-python'} has none of the peers" in done.stderr
    assert "pip install -r benchmarks/peers.txt" in done.stderr


def test_without_a_profiler_the_message_has_the_line_that_installs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.flame", "start", str(tmp_path / "a.svg"), "--py-spy", "no-py-spy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: no no-py-spy; install it with: pip install py-spy\n")


def test_a_box_of_a_picture_is_as_wide_as_its_share() -> None:
    stacks = Counter(
        {("main (convbatch/a.py)", "read (aiohttp/b.py)", "loads (json.py)"): 30, ("main (convbatch/a.py)",): 10}
    )
    picture = ElementTree.fromstring(drawn(stacks))
    boxes = {box[0].text: float(box[1].attrib["width"]) for box in picture.findall("{*}g")}
    assert boxes == {
        "main (convbatch/a.py) 100.0%": WIDTH - 0.4,
        "read (aiohttp/b.py) 75.0%": WIDTH * 3 / 4 - 0.4,
        "loads (json.py) 75.0%": WIDTH * 3 / 4 - 0.4,
    }
    assert own_shares(stacks) == [("aiohttp", 0.75), ("convbatch", 0.25)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "rows"),
    [
        ("speed", 6),
        ("whole", 2),
        ("workers", 3),
        ("long", 2),
        ("streams", 4),
        ("makespan", 4),
        ("reading", 8),
        ("memory", 3),
        ("validate", 1),
        ("estimate", 1),
        ("compare", 1),
        ("limits", 1),
        ("gates", 1),
        ("audit", 1),
    ],
)
def test_a_section_prints_its_ratios(tmp_path: Path, section: str, rows: int) -> None:
    found = ratios(tmp_path, "-s", section)
    assert len(found) >= rows, found


@pytest.mark.slow
def test_the_peers_that_are_installed_are_measured_and_the_others_named(tmp_path: Path) -> None:
    """The two SDKs are among what the tests install."""
    done = benchmarks(tmp_path, "-s", "peers", "--peers", sys.executable)
    assert done.returncode == 0, done.stderr
    for name in ("convbatch", "openai SDK", "google-genai chats"):
        assert len(re.findall(rf"at \d+ ms: {name}", done.stdout)) == 6, name
    assert "does not have evalscope perf, inspect_ai; install them with: " in done.stdout
