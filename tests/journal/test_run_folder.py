"""Run folders: creating, finding and recognising them, and writing files completely or not at all."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from convbatch.errors import JournalError, SetupError
from convbatch.journal.run_folder import RunFolder, default_name, find_run, list_runs
from convbatch.system import Disk
from tests.support.made_runs import manifest_of
from tests.support.tables import each

MANIFEST = manifest_of("m@g", created_at="2026-11-21T23:30:00Z")


class FailingDisk(Disk):
    """A disk on which one kind of operation fails."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def _maybe_fail(self, kind: str) -> None:
        if kind == self._kind:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, fd: int, data: bytes) -> int:
        self._maybe_fail("write")
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._maybe_fail("sync")

    def replace(self, source: Path, target: Path) -> None:
        self._maybe_fail("replace")
        super().replace(source, target)


def made(path: Path, **changes: Any) -> RunFolder:
    folder = RunFolder.create(path)
    folder.write_manifest(dataclasses.replace(MANIFEST, **changes))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_0700_and_files_0600_with_any_umask(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o755)
    former = os.umask(0)
    try:
        folder = made(tmp_path / "run")
        folder.take_lock().release()
        with folder.replacing("dataset.jsonl.gz") as file:
            file.write(b"x")
    finally:
        os.umask(former)
    assert {mode(path) for path in (folder.path, folder.journal)} == {0o700}
    assert {mode(path) for path in folder.path.rglob("*") if path.is_file()} == {0o600}


@pytest.mark.parametrize("before", ["absent", "deep", "empty"])
def test_a_run_folder_is_created_in_an_absent_or_empty_place(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a" / "b" if before == "deep" else tmp_path / "run"
    if before == "empty":
        path.mkdir()
    made(path)
    assert RunFolder.open(path).read_manifest() == MANIFEST


def _occupied(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("mine")


def _a_file(path: Path) -> None:
    path.write_text("mine")


def _another_run(path: Path) -> None:
    made(path)


@pytest.mark.parametrize(
    ("prepare", "message", "hint"),
    [
        (_occupied, "is not empty", "name an absent or empty folder with --out"),
        (_a_file, "is in the way", "--out DIR"),
        (_another_run, "is not empty", "convbatch resume"),
    ],
    ids=["occupied", "a file", "another run"],
)
def test_an_occupied_place_is_refused_and_unchanged(tmp_path: Path, prepare: Any, message: str, hint: str) -> None:
    prepare(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SetupError, match=message) as refused:
        RunFolder.create(tmp_path / "run")
    assert hint in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_without_write_access_is_a_setup_error() -> None:
    with pytest.raises(SetupError, match="cannot create the run folder /proc/here: "):
        RunFolder.create(Path("/proc/here"))
    with pytest.raises(SetupError, match="cannot create the run folder"):
        RunFolder.create_in(Path("/proc/here"), "name")


def test_runs_of_the_same_second_get_numbers(tmp_path: Path) -> None:
    names = [RunFolder.create_in(tmp_path / "results", "20261121T233000Z-quickstart").name for _ in range(3)]
    assert names == [f"20261121T233000Z-quickstart{end}" for end in ("", "-2", "-3")]


@each(
    ("stem", "name"),
    [
        ("quickstart", "20261121T233000Z-quickstart"),
        ("my data: v2/final", "20261121T233000Z-my-data-v2-final"),
        ("数据 集", "20261121T233000Z-数据-集"),
        ("../..", "20261121T233000Z-run"),
        ("x" * 300, "20261121T233000Z-" + "x" * 40),
    ],
)
def test_default_names_sort_by_time_and_are_safe_in_a_path(stem: str, name: str) -> None:
    assert default_name(1795303800.25, stem) == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "there is no run folder"),
        ("file", "is a file, not a run folder"),
        ("other", "is not a run folder: it has no run.json"),
    ],
)
def test_a_path_that_is_not_a_run_folder_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    with pytest.raises(SetupError, match=message):
        RunFolder.open(tmp_path / text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read run.json"),
        ("[]", "run.json is not a JSON object"),
        ('{"v": 2, "convbatch": "9.1"}', "run.json is of version 2"),
    ],
)
def test_an_unreadable_run_json_is_reported_with_reason_and_path(tmp_path: Path, text: str, message: str) -> None:
    folder = made(tmp_path / "run")
    (folder.path / "run.json").write_text(text)
    with pytest.raises(SetupError, match=message) as refused:
        folder.read_manifest()
    assert str(folder.path / "run.json") in str(refused.value)


@pytest.mark.parametrize("kind", ["write", "sync", "replace"])
def test_a_failed_write_leaves_the_previous_file(tmp_path: Path, kind: str) -> None:
    made(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", disk=FailingDisk(kind))
    with pytest.raises(JournalError, match="No space left on device"):
        folder.write_manifest(dataclasses.replace(MANIFEST, state="finished"))
    assert json.loads((folder.path / "run.json").read_text())["state"] == "running"
    assert not list(folder.path.glob(".*"))


@pytest.mark.parametrize("kind", ["write", "sync", "replace"])
def test_a_folder_is_removed_when_its_first_files_cannot_be_written(tmp_path: Path, kind: str) -> None:
    folder = RunFolder.create(tmp_path / "run", disk=FailingDisk(kind))
    with pytest.raises(JournalError, match="No space left on device") as refused, folder.creating():
        folder.write_manifest(MANIFEST)
    assert "hint: nothing was sent; free some space or name another folder" in str(refused.value)
    assert not folder.path.exists()


def test_a_folder_is_removed_when_its_creation_is_interrupted(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.dataset.touch()
    with pytest.raises(KeyboardInterrupt), folder.creating():
        signal.raise_signal(signal.SIGINT)
    assert not folder.path.exists()


def test_a_write_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    rows: list[Any] = [b"half", "not bytes"]
    with pytest.raises(TypeError), folder.replacing("turns.parquet") as file:
        file.writelines(rows)
    assert sorted(path.name for path in folder.path.iterdir()) == ["journal", "run.json"]


def test_a_compressed_file_can_be_written(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with folder.replacing("dataset.jsonl.gz") as file, gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:
        packed.write(b"line\n" * 1000)
    assert gzip.decompress(folder.dataset.read_bytes()) == b"line\n" * 1000


def test_a_planted_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    (tmp_path / "victim").write_text("precious")
    (folder.path / f".run.json.{os.getpid()}.new").symlink_to(tmp_path / "victim")
    with pytest.raises(JournalError):
        folder.write_manifest(MANIFEST)
    assert (tmp_path / "victim").read_text() == "precious"


def test_an_unlocked_run_in_state_running_was_interrupted(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    lock = folder.take_lock()
    assert folder.state(dataclasses.replace(MANIFEST, state="running")) == "running"
    assert folder.state(dataclasses.replace(MANIFEST, state="incomplete")) == "running"
    lock.release()
    assert folder.state(dataclasses.replace(MANIFEST, state="running")) == "interrupted"
    assert folder.state(dataclasses.replace(MANIFEST, state="finished")) == "finished"


def test_the_journal_mark_changes_when_the_journal_changes(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    marks = [folder.journal_mark()]
    for number in (1, 2):
        (folder.journal / f"{number:06}.jsonl").write_bytes(b"{}\n")
        marks.append(folder.journal_mark())
    assert len(set(marks)) == 3


def test_segments_are_listed_in_order_without_other_files(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    for name in ("000002.jsonl", "000001.jsonl", "1000000.jsonl", "000001.damaged", "lock", ".000001.jsonl.new"):
        (folder.journal / name).touch()
    assert [path.name for path in folder.segments()] == ["000001.jsonl", "000002.jsonl", "1000000.jsonl"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, created in (("b-first", "2026-11-20T00:00:00Z"), ("a-second", "2026-11-21T00:00:00Z")):
        made(tmp_path / "results" / name, created_at=created)
    (tmp_path / "results" / "notes").mkdir()
    made(tmp_path / "elsewhere")
    return Path("results")


def test_only_runs_are_listed_oldest_first(results: Path) -> None:
    assert [folder.name for folder in list_runs(results)] == ["b-first", "a-second"]
    assert list_runs(Path("nowhere")) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("b-first", "results/b-first"),
        ("results/b-first", "results/b-first"),
        ("latest", "results/a-second"),
        ("elsewhere", "elsewhere"),
        ("./elsewhere/", "elsewhere"),
    ],
)
def test_a_run_is_found_by_path_name_or_latest(results: Path, text: str, path: str) -> None:
    assert find_run(text, results) == Path(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b-frist", "did you mean b-first"),
        ("zzz", "there is no run 'zzz', neither as a path nor under results/"),
        ("notes", "results/notes is not a run folder"),
    ],
)
def test_a_missing_run_is_refused_with_the_closest_match(results: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        find_run(text, results)


def test_latest_without_runs_prints_a_command_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"convbatch run datasets/quickstart\.jsonl"):
        find_run("latest", tmp_path)


def test_a_broken_run_is_listed_but_never_the_latest(results: Path) -> None:
    (results / "zz-broken").mkdir()
    (results / "zz-broken" / "run.json").write_text("{")
    assert find_run("latest", results) == results / "a-second"
    assert "zz-broken" in [folder.name for folder in list_runs(results)]
