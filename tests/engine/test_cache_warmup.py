"""With prompt caching, one dialogue of each system text is sent ahead of the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convbatch.engine.cache_warmup import CacheWarmup
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for


@pytest.mark.parametrize("cache", ["auto", None])
def test_the_first_dialogue_of_a_system_text_has_its_reply_before_the_others_are_sent(
    simulator: Callable[[Provider], Server], convbatch: Command, tmp_path: Path, cache: str | None
) -> None:
    provider = Provider(latency_s=0.05)
    server = simulator(provider)
    settings = {} if cache is None else {"settings": {"cache": cache}}
    lines = [
        {"id": f"{system}{n}", "system": system, "turns": [{"user": "a"}, {"user": "b"}], **settings}
        for n in range(4)
        for system in ("A", "B")
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "convbatch.toml").write_text(config_for(server.url, rpm=60000))
    done = convbatch("run", "d.jsonl", "-m", "sim-good@at-gemini", "-o", "r")
    assert done.code == 0, done.err
    for system in ("A", "B"):
        of_system = [e for e in provider.ledger.entries if e.history and e.history[0][1] == system]
        leader, *others = of_system
        assert len(of_system) == 8
        assert leader.finished_at is not None
        waited = all(other.arrived_at >= leader.finished_at for other in others)
        assert waited == (cache == "auto")


def test_when_the_first_request_fails_the_next_one_goes_ahead() -> None:
    order: list[str] = []

    async def ask(warmup: CacheWarmup, name: str, *, replies: bool) -> None:
        async with warmup.turn("system") as first:
            order.append(f"{name} sent")
            await asyncio.sleep(0)
            if replies:
                first.replied()
            order.append(f"{name} done")

    async def play() -> None:
        warmup = CacheWarmup()
        asks = [ask(warmup, name, replies=name != "1") for name in "1234"]
        await asyncio.gather(*asks)

    asyncio.run(play())
    assert order[:4] == ["1 sent", "1 done", "2 sent", "2 done"]
    assert sorted(order[4:6]) == ["3 sent", "4 sent"]
