"""Batch jobs of the providers' own SDKs at the simulator, as evidence that it implements their APIs."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from convbatch.simulator import JobTimes, Provider, Script, Server, serve_in_thread
from tests.simulator.test_sdk_witnesses import DATES, GOOD, PROMPTS, REPLIES, WRONG, Clients

if TYPE_CHECKING:
    import anthropic
    import openai
    from google.genai import errors, types
    from openai.types.chat import ChatCompletion
else:
    from tests.simulator.test_sdk_witnesses import Later

    anthropic, openai = Later("anthropic"), Later("openai")
    errors, types = Later("google.genai.errors"), Later("google.genai.types")

pytestmark = pytest.mark.slow  # importing three SDKs takes seconds; `test_batches.py` covers the same without them
SYSTEM = "Answer briefly."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    times = JobTimes(validate_s=0.0, run_s=0.02, finish_s=0.0, cancel_s=0.0)
    with serve_in_thread(Provider(script=Script.of([DATES]), keys={GOOD}, job_times=times)) as server:
        yield server


@pytest.fixture(scope="module")
def clients(server: Server) -> Iterator[Clients]:
    clients = Clients(server)
    yield clients
    clients.close()


def polled(retrieve: Callable[[], Any], has_ended: Callable[[Any], bool]) -> Any:
    """Return a job once it has ended."""
    deadline = time.monotonic() + 10
    while not has_ended(job := retrieve()):
        assert time.monotonic() < deadline, job
        time.sleep(0.01)
    return job


def completion_of(body: Any) -> ChatCompletion:
    from openai.types.chat import ChatCompletion

    return ChatCompletion.model_validate(body)


def chat_line(name: str, messages: list[Any], **fields: Any) -> bytes:
    body = {"model": "sim-good", "messages": messages, **fields}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()


def test_openai_sdk_holds_a_dialogue_by_batches_of_one_turn(clients: Clients) -> None:
    client = clients.openai()
    history: list[Any] = [{"role": "system", "content": SYSTEM}]
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        history.append({"role": "user", "content": prompt})
        lines = b"\n".join([chat_line("good", history), chat_line("bad", history, temperature=9)])
        file = client.files.create(file=("wave.jsonl", lines), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"wave": "1"}
        )
        done = polled(lambda: client.batches.retrieve(batch.id), lambda job: job.status == "completed")  # noqa: B023  # called at once
        (good,) = map(json.loads, client.files.content(done.output_file_id).text.splitlines())
        (bad,) = map(json.loads, client.files.content(done.error_file_id).text.splitlines())
        message = completion_of(good["response"]["body"]).choices[0].message

        assert (good["custom_id"], message.content, bad["response"]["status_code"]) == ("good", reply, 400)
        assert (done.request_counts.total, done.request_counts.failed, done.metadata) == (2, 1, {"wave": "1"})
        history.append({"role": "assistant", "content": reply})

    assert len(list(client.batches.list(limit=2))) == 3, "over two pages"
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.cancel("batch_nope")
    with pytest.raises(openai.AuthenticationError):
        clients.openai(key=WRONG).batches.list()


def test_openai_sdk_holds_a_dialogue_by_discounted_background_responses(server: Server, clients: Clients) -> None:
    responses, previous = clients.responses(), None
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        queued = responses.create(
            model="sim-think",
            input=prompt,
            instructions=SYSTEM,
            background=True,
            store=True,
            background_options={"completion_window": "8h"},
            **({} if previous is None else {"previous_response_id": previous}),
        )
        done = polled(lambda: responses.retrieve(queued.id), lambda job: job.status not in {"queued", "in_progress"})  # noqa: B023  # called at once
        previous = done.id

        assert (queued.output, done.status, done.output_text) == ([], "completed", reply)
        assert done.usage.output_tokens_details.reasoning_tokens > 0
    responses.retrieve(previous)  # the server has noted the delivery before it reads another request
    billed = [entry for entry in server.provider.ledger.entries if entry.batch == previous and entry.billed]
    assert [(entry.turn, entry.price, entry.delivered) for entry in billed] == [(3, 0.5, True)]


def test_anthropic_sdk_holds_a_dialogue_by_batches_of_one_turn(clients: Clients) -> None:
    batches = clients.anthropic().messages.batches
    history: list[Any] = []
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        history.append({"role": "user", "content": prompt})
        params: Any = {"model": "sim-think", "max_tokens": 999, "system": SYSTEM, "messages": history}
        wrong: Any = {**params, "top_k": -1}
        requests: Any = [{"custom_id": "good", "params": params}, {"custom_id": "bad", "params": wrong}]
        batch = batches.create(requests=requests)
        done = polled(lambda: batches.retrieve(batch.id), lambda job: job.processing_status == "ended")  # noqa: B023  # called at once
        results = {line.custom_id: line.result for line in batches.results(batch.id)}
        good, bad = results["good"], results["bad"]

        assert good.type == "succeeded"
        assert good.message.content[-1].to_dict()["text"] == reply
        assert good.message.usage.service_tier == "batch"
        assert (bad.type, done.request_counts.succeeded, done.request_counts.errored) == ("errored", 1, 1)
        history.append({"role": "assistant", "content": good.message.content})

    first, *_ = found = list(batches.list(limit=2))
    assert len(found) == 3, "over two pages"
    assert batches.delete(first.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError, match="not found"):
        batches.retrieve(first.id)
    twice: Any = [{"custom_id": "a", "params": {}}] * 2
    with pytest.raises(anthropic.BadRequestError, match="Duplicate custom_id"):
        batches.create(requests=twice)


def google_job(clients: Clients, source: Any) -> Any:
    batches = clients.google().batches
    job = batches.create(model="sim-good", src=source, config={"display_name": "wave 1"})
    assert job.name is not None
    return polled(lambda: batches.get(name=str(job.name)), lambda found: "SUCCEEDED" in found.state.name)


def test_google_sdk_holds_a_dialogue_by_inline_batches_of_one_turn(clients: Clients) -> None:
    history: list[Any] = []
    config = types.GenerateContentConfig(system_instruction=SYSTEM)
    wrong = types.GenerateContentConfig(temperature=9)
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        history.append(types.Content(role="user", parts=[types.Part(text=prompt)]))
        good = types.InlinedRequest(contents=history, config=config, metadata={"key": "good"})
        bad = types.InlinedRequest(contents=history, config=wrong, metadata={"key": "bad"})
        done = google_job(clients, [good, bad])
        first, second = done.dest.inlined_responses

        assert [line.metadata["key"] for line in (first, second)] == ["good", "bad"]
        assert (first.response.text, second.error.code) == (reply, 3)
        history.append(first.response.candidates[0].content)

    assert {job.display_name for job in clients.google().batches.list(config={"page_size": 2})} == {"wave 1"}


def test_google_sdk_runs_a_batch_of_a_file(clients: Clients) -> None:
    client = clients.google()
    request = {"contents": [{"parts": [{"text": PROMPTS[0]}]}], "systemInstruction": {"parts": [{"text": SYSTEM}]}}
    lines = [{"key": "good", "request": request}, {"key": "bad", "request": {"contents": []}}]
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    file = client.files.upload(file=io.BytesIO(content), config={"mime_type": "application/jsonl"})
    done = google_job(clients, file.name)
    good, bad = map(json.loads, client.files.download(file=done.dest.file_name).decode().splitlines())

    reply = types.GenerateContentResponse.model_validate(good["response"])
    assert (good["key"], reply.text, bad["key"], bad["error"]["code"]) == ("good", REPLIES[0], "bad", 3)
    client.batches.cancel(name=done.name)
    client.batches.delete(name=done.name)
    with pytest.raises(errors.ClientError, match="404"):
        client.batches.get(name=done.name)
