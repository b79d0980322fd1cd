"""A faulty network between the command and the gateway, over real sockets: no reply is lost, mixed up or hidden."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import convbatch as cb
from convbatch.engine.http_values import OutgoingRequest
from convbatch.engine.transport import AiohttpTransport
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for, write_dataset
from tests.support.chaos_proxy import chaos
from tests.support.ledger_laws import check_bills, check_histories, possibly_paid, same_rows, statuses


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["gemini", "openai", "responses", "anthropic"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_resume_after_network_faults_ends_like_an_undisturbed_run(
    seed: int, wire: str, tmp_path: Path, simulator: Callable[[Provider], Server], command: Command
) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 100, 3)
    provider = Provider(script=Script.load(dataset), latency_s=0.01)
    server = simulator(provider)
    models = f'[run]\nmodels = ["sim-good@at-{wire}"]\n'
    (tmp_path / "calm.toml").write_text(config_for(server.url, wires=(wire,), models=models))
    assert command("run", "d.jsonl", "-c", "calm.toml", "-o", "calm").code == 0
    calm = cb.load(tmp_path / "calm").turns
    provider.ledger.entries.clear()

    with chaos(server.port, seed=seed, fault_rate=0.08) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        faulty_config = config_for(url, wires=(wire,), models=models, attempt_timeout=5)
        (tmp_path / "convbatch.toml").write_text(faulty_config)
        done = command("run", "d.jsonl", "-o", "out", "--deadline", "20s")
        assert done.code in (0, 3), done.err
        check_ledger(provider, tmp_path / "out")
        assert len(proxy.fault_counts) >= 6, proxy.fault_counts
        faults = sum(proxy.fault_counts.values())
        proxy.calm = True
        assert command("resume", "out").code == 0
    turns = cb.load(tmp_path / "out").turns
    again = check_ledger(provider, tmp_path / "out")
    same_rows(calm, turns)
    assert statuses(turns) == {"ok": 300}
    print(f"\n{faults} faults: {len(turns)} rows, {again} billed again, {possibly_paid(turns)} possibly paid")  # noqa: T201


def check_ledger(provider: Provider, out: Path) -> int:
    """Check the ledger, during the faults as well as after them; return the number of requests paid again."""
    complete = [entry for entry in provider.ledger.entries if entry.history is not None]  # None: the request was cut
    assert check_histories(complete)
    run = cb.load(out)
    again = check_bills(complete, run.turns)
    ambiguous = sum(cls in ("ambiguous", "timeout") for cls in run.attempts["class"].dropna())
    assert sum(entry.billed for entry in complete) <= len(run.turns) + ambiguous
    return again


@asynccontextmanager
async def repeating_server(*, late_s: float, connections: list[asyncio.StreamWriter]) -> AsyncGenerator[str]:
    """Start a server that answers with the question, and sends the answer a second time `late_s` later."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                assert length is not None
                body = await reader.readexactly(int(length[1]))
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                writer.write(answer)
                await asyncio.sleep(late_s)
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in connections:
            writer.transport.abort()


@pytest.mark.parametrize("late_s", [0.0, 0.005])
async def test_a_duplicated_reply_is_never_taken_for_the_next_answer(late_s: float, by_session: bool) -> None:
    connections: list[asyncio.StreamWriter] = []
    async with repeating_server(late_s=late_s, connections=connections) as url:
        transport = AiohttpTransport(by_session=by_session)
        for number in range(5):
            question = b"question %d" % number
            outgoing = OutgoingRequest(method="POST", url=url, headers={}, body=question, timeout_s=5)
            assert (await transport.send(outgoing)).body == question
            await asyncio.sleep(0.1)  # longer than the second answer takes, also on a busy machine
        await transport.close()
    assert len(connections) == 5, "a connection with an unexpected second answer was reused"


def answer_twice(listener: socket.socket, *, late_s: float) -> None:
    """Answer one question on each of two connections, and send the first answer a second time `late_s` later."""
    for _ in range(2):
        client, _ = listener.accept()
        with suppress(ConnectionError), client, client.makefile("rb") as asked:
            length = 0
            while (line := asked.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (length, asked.read(length))
            client.sendall(answer)
            time.sleep(late_s)
            client.sendall(answer)
            asked.read(1)  # until the client closes it


async def test_a_reply_that_waits_unread_in_the_socket_is_not_the_next_answer(by_session: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer_twice, args=(listener,), kwargs={"late_s": 0.02}, daemon=True)
        server.start()
        transport = AiohttpTransport(by_session=by_session)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for number in range(2):
            question = b"question %d" % number
            outgoing = OutgoingRequest(method="POST", url=url, headers={}, body=question, timeout_s=5)
            assert (await transport.send(outgoing)).body == question
            time.sleep(0.2)  # noqa: ASYNC251  # the event loop is busy, and does not read meanwhile
        await transport.close()
        await asyncio.to_thread(server.join, 5)
        assert not server.is_alive()
