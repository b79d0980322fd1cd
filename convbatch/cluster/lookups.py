"""What a worker asks the coordinator for while it works: replies of another run, and media of the run folder."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

from convbatch.cluster.channel import Outgoing
from convbatch.cluster.messages import Found, ReusableTurn, StoredMedia, Wanted
from convbatch.dataset.media_files import media_of
from convbatch.dialogue import Dialogue
from convbatch.journal.media_store import MediaStore


class Lookups:
    """Questions to the coordinator, each with one answer."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def find(self, what: ReusableTurn | StoredMedia) -> Any:
        """Return what the coordinator has; None if it has nothing."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._outgoing.put(Wanted(number, what))
        return await answer

    def found(self, message: Found) -> None:
        """Take an answer."""
        answer = self._waiting.pop(message.number)
        if not answer.done():  # else the conversation was cancelled
            answer.set_result(message.value)


class ReusedReplies:
    """The run of `--reuse`, which only the coordinator reads; has what the runner uses of `ReplySource`."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        self._found: dict[tuple[str, int], Any] = {}

    async def look_up(self, key: str, repeat: int) -> None:
        """Get what `turn_by_key` returns next."""
        self._found[key, repeat] = await self._lookups.find(ReusableTurn(key, repeat))

    def turn_by_key(self, key: str, repeat: int) -> Any:
        """Return what `look_up` got."""
        return self._found.pop((key, repeat), None)


class BroughtMedia:
    """The media that dialogues send, on a machine that does not have the run folder: each is brought once."""

    def __init__(self, lookups: Lookups, store: MediaStore) -> None:
        self._lookups = lookups
        self._store = store
        self._bringing: dict[str, asyncio.Task[None]] = {}

    async def bring(self, dialogue: Dialogue) -> None:
        """Return when all media of a dialogue are here that the coordinator has."""
        for path in {part.path for _, part, _ in media_of(dialogue) if part.path is not None}:
            if not self._store.has(path):
                if (task := self._bringing.get(path)) is None:
                    task = self._bringing[path] = asyncio.create_task(self._bring(path))
                await asyncio.shield(task)  # others may wait for it

    async def _bring(self, path: str) -> None:
        content = await self._lookups.find(StoredMedia(path))
        if content is not None:
            with contextlib.suppress(OSError):  # a request for what is not here says so, as in one process
                self._store.put(path, content)
        del self._bringing[path]
