"""What each peer is asked, from its command line."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path


class Task(argparse.Namespace):
    """Arguments of every peer."""

    url: str
    out: Path
    """A file or folder for what the peer keeps."""
    dialogues: int
    turns: int
    concurrency: int


def read_task(description: str | None) -> Task:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dialogues", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    return parser.parse_args(namespace=Task())


async def in_parallel(task: Task, converse: Callable[[int], Awaitable[None]]) -> None:
    """Run all dialogues, `concurrency` at a time."""
    waiting = iter(range(task.dialogues))

    async def work(dialogues: Iterator[int]) -> None:
        for dialogue in dialogues:
            await converse(dialogue)

    async with asyncio.TaskGroup() as group:
        for _ in range(task.concurrency):
            group.create_task(work(waiting))
