"""Records of run folders in the user's state directory: what makes one count, and what does not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from convbatch.session.origins import add_endpoints, read_origin, record_origin


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where the records are."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "convbatch" / "runs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_a_record_is_private_and_grows_by_endpoints(folder: Path, runs: Path) -> None:
    token = record_origin(folder, ["one"], reuse="/other")
    assert (runs.stat().st_mode & 0o777, (runs / token).stat().st_mode & 0o777) == (0o700, 0o600)
    add_endpoints(token, ["two", "one"])
    origin = read_origin(token)
    assert origin is not None
    assert (origin.endpoints, origin.reuse) == (("one", "two"), "/other")
    assert origin.is_at(folder)
    assert [path.name for path in runs.iterdir()] == [token], "no draft is left"


def test_a_record_is_of_one_folder_wherever_its_name_is_copied_to(folder: Path, tmp_path: Path) -> None:
    origin = read_origin(record_origin(folder, []))
    assert origin is not None
    copied = shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "link").symlink_to(folder)
    moved = folder.rename(tmp_path / "moved")
    assert [origin.is_at(path) for path in (copied, moved, tmp_path / "link", folder)] == [False, True, False, False]
    copied.rename(folder)
    assert origin.is_at(folder), "restored to its place from a copy"


def replaced_by_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "others may write the folder": lambda runs, record: runs.chmod(0o777),
    "others may write the folder above": lambda runs, record: runs.parent.chmod(0o770),
    "others may write the record": lambda runs, record: record.chmod(0o666),
    "the folder is a link": lambda runs, record: replaced_by_a_link(runs),
    "the folder above is a link": lambda runs, record: replaced_by_a_link(runs.parent),
    "the record is a link": lambda runs, record: replaced_by_a_link(record),
    "the record is a pipe": lambda runs, record: replaced_by_a_pipe(record),
    "the record is not JSON": lambda runs, record: record.write_bytes(b"\xff{"),
    "the record is a list": lambda runs, record: record.write_text("[]"),
    "the record has another form": lambda runs, record: record.write_text(json.dumps({"path": 1, "endpoints": {}})),
    "the record is gone": lambda runs, record: record.unlink(),
    "all is gone": lambda runs, record: shutil.rmtree(runs.parent.parent),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_record_that_others_could_have_written_does_not_count(case: str, folder: Path, runs: Path) -> None:
    token = record_origin(folder, [])
    HOSTILE[case](runs, runs / token)
    assert read_origin(token) is None


@pytest.mark.parametrize("token", [None, "", "..", "../runs", "0" * 31, "A" * 32, "0" * 32 + "\n"])
def test_a_name_is_no_path(token: str | None, folder: Path) -> None:
    record_origin(folder, [])
    assert read_origin(token) is None


def test_records_are_bounded_and_those_in_use_are_kept(folder: Path, runs: Path) -> None:
    token = record_origin(folder, [])
    for number in range(20):
        (runs / f"{number:032x}").touch()
    os.utime(runs / token, ns=(0, 0))
    assert read_origin(token) is not None, "a look-up makes it the youngest"
    newest = record_origin(folder, [], most=20)
    assert sum(1 for _ in runs.iterdir()) == 19
    assert read_origin(token) is not None
    assert read_origin(newest) is not None


def test_a_state_directory_that_cannot_be_written_is_reported(folder: Path, runs: Path) -> None:
    runs.parent.parent.write_text("a file")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        record_origin(folder, [])
