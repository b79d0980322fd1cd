"""Tests of the files of media in a run folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from convbatch.journal.media_store import MediaStore
from convbatch.system import Disk
from tests.support.made_media import png


class FullDisk(Disk):
    """Fails one kind of operation for lack of space."""

    def __init__(self, fails: str) -> None:
        self._fails = fails

    def _may(self, operation: str) -> None:
        if operation == self._fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, fd: int, data: bytes) -> int:
        """Write at most 10 bytes, and fail on the second call."""
        if os.lseek(fd, 0, os.SEEK_CUR):
            self._may("write")
        return super().write(fd, data[:10])

    def sync(self, fd: int) -> None:
        self._may("sync")
        super().sync(fd)

    def replace(self, source: Path, target: Path) -> None:
        self._may("replace")
        super().replace(source, target)


@pytest.mark.parametrize("operation", ["write", "sync", "replace"])
def test_a_full_disk_leaves_no_draft_and_the_name_is_the_same(tmp_path: Path, operation: str) -> None:
    failed = MediaStore(tmp_path, disk=FullDisk(operation)).keep(png(), "image/png")
    assert list((tmp_path / "media").iterdir()) == []
    written = MediaStore(tmp_path, disk=FullDisk("")).keep(png(), "image/png")
    assert failed == written
    assert (tmp_path / written.path).read_bytes() == png()
