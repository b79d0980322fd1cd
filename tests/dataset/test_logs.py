"""Logs that the tools themselves have made (`log_samples/README.md`), and forms whose tools need a server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convbatch.dataset.logs.convert import convert_logs, log_form
from convbatch.dataset.logs.registry import LOG_FORMS
from convbatch.dataset.selection import LOGS, load_dialogues
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError
from tests.conftest import Command

SAMPLES = Path(__file__).parent / "log_samples"
MAIL = "What day is today? My mail is ann@example.com."
REPLY = f'Turn 1: you said "{MAIL}". History 44f1a3b9f3a2.'
TWO_TURNS = [(MAIL, REPLY), ("And tomorrow?", 'Turn 2: you said "And tomorrow?". History 2e5d9016a9ac.')]
CHINESE = [("今天是几号", 'Turn 1: you said "今天是几号". History 9b321b77d2cc.')]


def converted(folder: Path, *names: str, name: str | None = None, **options: Any) -> list[Dialogue]:
    """Convert samples, by their detected kind or the named one, and return the dialogues."""
    paths = [SAMPLES / one for one in names]
    form = log_form(paths, name)
    assert form is not None, f"{names} is detected as a log"
    convert_logs(paths, folder / "out.jsonl", form, **options)
    return load_dialogues([folder / "out.jsonl"])


def from_lines(folder: Path, *rows: Any, name: str | None = None, file: str = "log.jsonl") -> list[Dialogue]:
    (folder / file).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return converted(folder, str(folder / file), name=name)


def spoken(dialogue: Dialogue) -> list[tuple[str, str | None]]:
    return [(turn.user_text, turn.assistant) for turn in dialogue.turns]


def calls_of(dialogue: Dialogue) -> list[list[dict[str, Any]]]:
    return dialogue.to_plain()["turns"][0]["tool_calls"]


def test_the_names_of_logs_are_those_of_their_readers() -> None:
    assert set(LOGS) == set(LOG_FORMS)


# Each row: the files of one log, its kind, whether it has sessions and declarations of tools.
ALL_THREE = {
    "otel, new attributes": (["otel_new.jsonl"], "otel", True),
    "otel, OTLP spans and log records": (["otel_otlp_spans.jsonl", "otel_log_records.jsonl"], "otel", False),
    "otel, log records first": (["otel_log_records.jsonl", "otel_flat_spans.jsonl"], "otel", False),
    "phoenix, spans": (["phoenix_spans.jsonl"], "phoenix", True),
    "phoenix, JSON lines": (["phoenix.jsonl"], "phoenix", True),
    "phoenix, CSV": (["phoenix.csv"], "phoenix", True),
    "phoenix, Parquet": (["phoenix.parquet"], "phoenix", True),
    "langfuse, spans": (["langfuse_otel.jsonl"], "otel", True),
    "litellm, spend logs": (["litellm_spend.jsonl.gz"], "litellm", True),
    "litellm, payloads": (["litellm_payloads.json.gz"], "litellm", True),
}


@pytest.mark.parametrize(("files", "kind", "declared"), ALL_THREE.values(), ids=ALL_THREE)
def test_five_requests_of_a_real_log_become_three_dialogues(
    files: list[str], kind: str, declared: bool, tmp_path: Path
) -> None:
    dialogues = {len(one.turns) + bool(one.tools) * 10: one for one in converted(tmp_path, *files)}
    talk, tool, single = dialogues[2], dialogues[11], dialogues[1]
    assert spoken(talk) == TWO_TURNS
    assert talk.system == "Answer briefly."
    assert spoken(single) == CHINESE
    assert [f"source:{kind}", "model:gpt-4o-mini"] == list(talk.tags[:2])
    [[call]] = calls_of(tool)
    assert (call["name"], call["arguments"], call["result"]) == ("weather", {"city": "Lima"}, "18 degrees")
    assert ("parameters" in tool.to_plain()["tools"][0]) == declared
    assert tool.turns[0].assistant is not None
    assert "18 degrees" in tool.turns[0].assistant
    if "records" not in " ".join(files):
        assert talk.settings.temperature in (0, None)


def test_a_session_names_the_dialogue_and_each_trace_is_a_tag(tmp_path: Path) -> None:
    talk = next(one for one in converted(tmp_path, "phoenix.csv") if len(one.turns) == 2)
    assert talk.id == "chat-1"
    old = next(one for one in from_otlp(tmp_path / "x") if len(one.turns) == 2)
    assert len([tag for tag in old.tags if tag.startswith("trace:")]) == 2


def from_otlp(folder: Path) -> list[Dialogue]:
    folder.mkdir()
    return converted(folder, "otel_otlp_spans.jsonl", "otel_log_records.jsonl")


def test_spans_without_content_are_refused_with_the_switch_that_turns_it_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true"):
        converted(tmp_path, "otel_flat_spans.jsonl", "otel_capture_off.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("file", ["promptfoo_results.json", "promptfoo_results.jsonl", "promptfoo_results.yaml"])
def test_results_of_promptfoo_are_joined_by_their_conversation_with_checks(file: str, tmp_path: Path) -> None:
    talk, other = converted(tmp_path, file)
    assert spoken(talk) == TWO_TURNS
    assert talk.turns[0].checks == ({"contains": "today"},), "of the test before, whose request the last one repeats"
    assert other.turns[0].checks == ({"icontains": "TURN"},)
    assert other.meta["log"]["assert"] == [{"type": "javascript", "value": "output.length < 500"}]
    assert {"prompt:chat", "result:pass", "model:openai:chat:gpt-4o-mini"} <= set(talk.tags)


def test_a_config_of_promptfoo_becomes_a_dialogue_for_each_conversation(tmp_path: Path) -> None:
    talk, other = converted(tmp_path, "promptfooconfig.yaml")
    assert [talk.id, other.id] == ["talk", "other"]
    assert spoken(talk) == [(MAIL, None), ("And tomorrow?", None)]
    assert talk.system == "Answer briefly."
    assert talk.turns[0].checks == ({"contains": "today"},)


def test_a_table_of_results_of_promptfoo_has_the_question_of_its_only_variable(tmp_path: Path) -> None:
    notes: list[str] = []
    plain = tmp_path / "plain.csv"
    plain.write_text("q,[m] {{ q }},Status,Score,[n] {{q}},Status,Score\nHi,Hello,PASS,1,,ERROR,0\n")
    two = converted(tmp_path, str(plain), name="promptfoo", on_note=notes.append)
    assert [spoken(one) for one in two] == [[("Hi", "Hello")], [("Hi", None)]]
    assert [one.tags[1:] for one in two] == [("model:m", "result:pass"), ("model:n", "result:fail", "status:error")]
    assert notes == []
    (tmp_path / "out.jsonl").unlink()
    dialogues = converted(tmp_path, "promptfoo_results.csv", on_note=notes.append)
    assert any("what prompts say around the variable" in note and note.endswith("(3)") for note in notes), notes
    assert [one.turns[0].user_text for one in dialogues] == [
        MAIL,
        "And tomorrow?",
        "今天是几号",
    ]


def test_a_table_of_tests_of_promptfoo(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "question,__expected,__expected2,__metadata:conversationId\n"
        'Hi,"contains: Hello",is-json,a\nBye,Bye,,a\nWho?,,,\n'
    )
    talk, alone = converted(tmp_path, str(tmp_path / "t.csv"))
    assert talk.id == "a"
    assert [turn.checks for turn in talk.turns] == [({"contains": "Hello"}, {"is_json": True}), ({"equals": "Bye"},)]
    assert alone.turns[0].user_text == "Who?"


@pytest.mark.parametrize("files", [["inspect_talk.eval", "inspect_tools.eval"], ["inspect_tools.json.gz"]])
def test_samples_of_inspect_ai(files: list[str], tmp_path: Path) -> None:
    dialogues = {one.id: one for one in converted(tmp_path, *files)}
    lima = dialogues["lima"]
    assert lima.to_plain()["tools"][0]["name"] == "weather"
    assert {"task:tools", "score:includes=C", "model:gpt-4o-mini"} <= set(lima.tags)
    [[call]] = calls_of(lima)
    assert call["result"] == "18 degrees"
    if "dates" in dialogues:
        assert spoken(dialogues["dates"]) == TWO_TURNS
        assert dialogues["dates"].meta["log"]["sample_metadata"] == {"level": 1}
        assert dialogues["2"].meta["log"]["target"] == ["26", "27"]


@pytest.mark.parametrize("kind", ["predictions", "reviews"])
def test_rows_of_evalscope(kind: str, tmp_path: Path) -> None:
    first, second = converted(tmp_path, f"evalscope/{kind}/gpt-4o-mini/general_qa_example.jsonl")
    assert spoken(first) == TWO_TURNS[:1]
    assert first.system == "Answer briefly."
    assert {"model:gpt-4o-mini", "dataset:general_qa_example"} <= set(second.tags)


def test_a_report_of_evalscope_names_the_files_with_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="predictions/MODEL"):
        converted(tmp_path, "evalscope/report.json.gz")


# Forms that need a server: shapes from the documentation of Langfuse's API and exports and of new-api's log.


def generation(n: int, asked: Any, output: Any, **keys: Any) -> dict[str, Any]:
    return {
        "id": f"o{n}",
        "traceId": f"t{n}",
        "type": "GENERATION",
        "startTime": f"2026-01-01T00:00:0{n}.000Z",
        "name": "chat",
        "model": "m",
        "modelParameters": {"temperature": 0.5, "max_tokens": "inf"},
        "input": asked,
        "output": output,
        "projectId": "p",
        **keys,
    }


def trace(n: int, asked: Any, output: Any, **keys: Any) -> dict[str, Any]:
    own = {"sessionId": "s", "userId": "u", "tags": ["vip"], "environment": "production", "bookmarked": False}
    return {"id": f"t{n}", "timestamp": f"2026-01-01T00:00:0{n}.000Z", "input": asked, "output": output, **own, **keys}


def asked(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def test_observations_of_langfuse_get_session_and_tags_of_their_trace(tmp_path: Path) -> None:
    rows = [
        generation(1, asked("One?"), {"role": "assistant", "content": "1"}),
        generation(2, {"messages": asked("One?", "1", "Two?")}, "2", level="DEFAULT"),
        {"id": "x", "traceId": "t1", "type": "SPAN", "input": {}, "output": {}},
        trace(1, "One?", "1"),
        trace(2, "Two?", "2"),
    ]
    [dialogue] = from_lines(tmp_path, *rows)
    assert dialogue.id == "s"
    assert spoken(dialogue) == [("One?", "1"), ("Two?", "2")]
    assert {"vip", "environment:production", "model:m", "trace:t1", "trace:t2"} <= set(dialogue.tags)
    assert dialogue.settings.temperature == 0.5


def test_traces_of_one_langfuse_session_follow_each_other_in_time(tmp_path: Path) -> None:
    rows = [trace(2, "Two?", "2"), trace(1, {"args": [], "kwargs": {"question": "One?"}}, {"answer": "1"})]
    [dialogue] = from_lines(tmp_path, *rows)
    assert spoken(dialogue) == [("One?", "1"), ("Two?", "2")]


def test_a_page_of_the_langfuse_api_and_traces_with_their_observations(tmp_path: Path) -> None:
    inner = {
        **trace(1, "One?", "1"),
        "observations": [generation(1, json.dumps(asked("One?")), '{"content": "1", "role": "assistant"}')],
    }
    [dialogue] = from_lines(tmp_path, {"data": [inner], "meta": {"page": 1}})
    assert spoken(dialogue) == [("One?", "1")]
    assert "model:m" in dialogue.tags


def test_langfuse_csv(tmp_path: Path) -> None:
    columns = "id,timestamp,sessionId,userId,input,output,tags\n"
    (tmp_path / "t.csv").write_text(
        columns + 't1,2026-01-01,s,u,"[{""role"": ""user"", ""content"": ""Hi""}]",Hello,"[""a""]"\n'
    )
    [dialogue] = converted(tmp_path, str(tmp_path / "t.csv"))
    assert spoken(dialogue) == [("Hi", "Hello")]
    assert "a" in dialogue.tags


NEWAPI = {
    "id": 1,
    "created_at": 1795000000,
    "type": 2,
    "username": "root",
    "token_name": "t",
    "model_name": "m",
    "quota": 3,
    "channel": 1,
}
STREAM = "".join(
    f"data: {event}\n\n"
    for event in (
        '{"choices":[{"delta":{"role":"assistant","content":"He"}}]}',
        '{"choices":[{"delta":{"content":"llo"}}]}',
        "[DONE]",
    )
)
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
TEXT = {"type": "text", "text": "Hello"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello"}]}
BODIES = {
    "chat": (json.dumps(CHAT), json.dumps({"choices": [{"message": {"role": "assistant", "content": "Hello"}}]})),
    "stream": (CHAT, STREAM),
    "gemini": (
        {"contents": [{"parts": [{"text": "Hi"}]}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}}]},
    ),
    "responses": ({"model": "m", "input": "Hi"}, {"output": [{"type": "reasoning"}, SAID]}),
    "anthropic": (
        {"system": [], "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"type": "message", "role": "assistant", "content": [TEXT]},
    ),
}


@pytest.mark.parametrize(("request_body", "response_body"), BODIES.values(), ids=BODIES)
def test_bodies_of_every_wire_in_a_log_of_new_api(request_body: Any, response_body: Any, tmp_path: Path) -> None:
    page = {
        "success": True,
        "data": {"items": [{**NEWAPI, "request_body": request_body, "response_body": response_body}]},
    }
    [dialogue] = from_lines(tmp_path, page)
    assert spoken(dialogue) == [("Hi", "Hello")]
    assert list(dialogue.tags) == ["source:newapi", "model:m"]


def test_new_api_logs_without_texts_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="new-api's own log has no texts"):
        from_lines(tmp_path, NEWAPI)


def test_a_failed_request_has_no_reply_and_a_tag(tmp_path: Path) -> None:
    row = {
        "request_id": "r",
        "call_type": "acompletion",
        "startTime": "2026-01-01",
        "spend": 0,
        "model": "m",
        "status": "failure",
        "messages": asked("Hi"),
        "response": {"error": "no"},
    }
    [dialogue] = from_lines(tmp_path, row)
    assert spoken(dialogue) == [("Hi", None)]
    assert "status:error" in dialogue.tags


OLD_NAMES = {
    "gen_ai.system": "openai",
    "gen_ai.request.model": "m",
    "llm.request.type": "chat",
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": "Be brief.",
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": "Weather in Lima?",
    "gen_ai.prompt.2.role": "assistant",
    "gen_ai.prompt.2.tool_calls.0.id": "c1",
    "gen_ai.prompt.2.tool_calls.0.name": "weather",
    "gen_ai.prompt.2.tool_calls.0.arguments": '{"city": "Lima"}',
    "gen_ai.prompt.3.role": "tool",
    "gen_ai.prompt.3.content": "18",
    "gen_ai.prompt.3.tool_call_id": "c1",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "18 degrees",
    "llm.request.functions.0.name": "weather",
    "llm.request.functions.0.parameters": '{"type": "object"}',
    "traceloop.association.properties.session_id": "s9",
}


def test_the_numbered_attributes_of_older_instrumentations(tmp_path: Path) -> None:
    [dialogue] = from_lines(tmp_path, {"trace_id": "a", "span_id": "b", "name": "openai.chat", "attributes": OLD_NAMES})
    assert dialogue.id == "s9"
    assert dialogue.system == "Be brief."
    assert spoken(dialogue) == [("Weather in Lima?", "18 degrees")]
    [[call]] = calls_of(dialogue)
    assert call["result"] == "18"


def inference_span(number: int, messages: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Any]:
    """Return a span of OpenInference whose messages have numbered attributes, as its instrumentations write them."""
    attributes: dict[str, Any] = {"openinference.span.kind": "LLM", "llm.model_name": "claude-x", **more}
    for side, rows in messages.items():
        for n, row in enumerate(rows):
            attributes |= {f"llm.{side}_messages.{n}.message.{key}": value for key, value in row.items()}
    context = {"trace_id": f"0x{number:032x}", "span_id": f"0x{number:016x}"}
    return {
        "name": "messages",
        "context": context,
        "start_time": f"2026-11-28T09:00:0{number}Z",
        "attributes": attributes,
    }


def part_of(number: int, kind: str, **more: Any) -> dict[str, Any]:
    own = {key: value for key, value in more.items() if key == "tool_call"}
    held = {"type": kind, **{key: value for key, value in more.items() if key not in own}}
    call = {f"contents.{number}.tool_call.{key}": value for key, value in own.get("tool_call", {}).items()}
    return {f"contents.{number}.message_content.{key}": value for key, value in held.items()} | call


CALL = {"id": "c1", "function.name": "weather", "function.arguments": '{"city": "Lima"}'}


def test_thoughts_and_calls_within_the_contents_of_a_message_are_no_text_of_it(tmp_path: Path) -> None:
    """As openinference-instrumentation-anthropic 3 writes them: no text of a call, thoughts under `text`."""
    question = {"role": "user", "content": "Weather in Lima?"}
    called = {
        "role": "assistant",
        **part_of(0, "reasoning", text="I should look."),
        **part_of(1, "tool_use", tool_call=CALL),
    }
    use = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Lima"}}
    body = {"messages": [
        {"role": "user", "content": "Weather in Lima?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "I should look.", "signature": "s"}, use]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "18"}]},
    ]}  # fmt: skip
    said = (part_of(0, "reasoning", text="It said 18."), part_of(1, "text", text="18 degrees"))
    reply = {"role": "assistant", **said[0], **said[1], **part_of(2, "text", signature="s")}
    rows = [
        inference_span(1, {"input": [question], "output": [called]}),
        inference_span(2, {"output": [reply]}, **{"input.value": json.dumps(body)}),
    ]
    [dialogue] = from_lines(tmp_path, *rows)
    assert spoken(dialogue) == [("Weather in Lima?", "18 degrees")]
    [[call]] = calls_of(dialogue)
    assert (call["name"], call["arguments"], call["result"]) == ("weather", {"city": "Lima"}, "18")
    assert "should look" not in (tmp_path / "out.jsonl").read_text()


def test_a_part_of_another_kind_is_refused_and_not_taken_for_text(tmp_path: Path) -> None:
    document = part_of(0, "document", text='{"type": "document", "source": {}}')
    row = inference_span(
        1, {"input": [{"role": "user", **document}], "output": [{"role": "assistant", "content": "Hm."}]}
    )
    with pytest.raises(InputError, match="a part that cannot be imported"):
        from_lines(tmp_path, row)


def messages_span(**attributes: str) -> dict[str, Any]:
    context = {"trace_id": f"0x{1:032x}", "span_id": f"0x{2:016x}"}
    held = {"gen_ai.operation.name": "chat", **{f"gen_ai.{name}": value for name, value in attributes.items()}}
    return {"name": "chat m", "context": context, "start_time": "2026-11-28T09:00:00Z", "attributes": held}


ATTRIBUTES = {
    "input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "How are you today?"}]}]',
    "output.messages": '[{"role": "assistant", "parts": [{"type": "text", "content": "Fine."}]}]',
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_messages_that_a_limit_has_cut_off_are_named_and_never_taken_for_absent(name: str, tmp_path: Path) -> None:
    assert spoken(from_lines(tmp_path, messages_span(**ATTRIBUTES))[0]) == [("How are you today?", "Fine.")]
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(InputError, match=rf"log.jsonl:1: gen_ai.{name} is not JSON that can be read") as caught:
        from_lines(tmp_path, messages_span(**{**ATTRIBUTES, name: ATTRIBUTES[name][:40]}))
    assert "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT" in str(caught.value)


def test_results_without_an_id_and_declarations_of_googles_sdk_are_read(tmp_path: Path) -> None:
    """As opentelemetry-instrumentation-google-generativeai 0.62 writes them."""
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}
    asked = [
        {"role": "user", "parts": [{"type": "text", "content": "Lima or Oslo?"}]},
        {"role": "assistant", "parts": [
            {"type": "tool_call", "id": f"c{n}", "name": "weather", "arguments": {"city": city}}
            for n, city in enumerate(("Lima", "Oslo"))
        ]},
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "", "response": '{"temp": 21}'}]},
        {"role": "user", "parts": [{"type": "tool_call_response", "id": "", "response": '{"temp": 3}'}]},
    ]  # fmt: skip
    row = messages_span(**{
        "input.messages": json.dumps(asked),
        "output.messages": ATTRIBUTES["output.messages"],
        "tool.definitions": json.dumps([{"function_declarations": [{"name": "weather", "parameters": schema}]}]),
    })  # fmt: skip
    [dialogue] = from_lines(tmp_path, row)
    assert [(call["arguments"]["city"], call["result"]) for [*calls] in calls_of(dialogue) for call in calls] == [
        ("Lima", '{"temp": 21}'),
        ("Oslo", '{"temp": 3}'),
    ]
    [tool] = dialogue.to_plain()["tools"]
    assert tool["parameters"] == {"type": "object", "properties": {"city": {"type": "string"}}}


def test_a_record_that_is_there_twice_is_one_request(tmp_path: Path) -> None:
    notes: list[str] = []
    row = messages_span(**ATTRIBUTES)
    other = {**row, "context": {**row["context"], "span_id": "0x9"}}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [row, row, other])))
    (tmp_path / "b.jsonl").write_text(json.dumps(row))
    [first, second] = converted(tmp_path, str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), on_note=notes.append)
    assert spoken(first) == spoken(second), "another span asked the same"
    assert notes == ["note: 2 records that the log has twice left out"]


def test_events_of_a_span_with_one_message_each(tmp_path: Path) -> None:
    events = [
        {"name": "gen_ai.system.message", "attributes": {"content": "Be brief."}},
        {"name": "gen_ai.user.message", "attributes": {"content": "Hi"}},
        {"name": "gen_ai.choice", "attributes": {"index": 0, "message": '{"role": "assistant", "content": "Hello"}'}},
    ]
    span = {
        "context": {"trace_id": "0x1", "span_id": "0x2"},
        "attributes": {"gen_ai.operation.name": "chat"},
        "events": events,
    }
    [dialogue] = from_lines(tmp_path, span)
    assert spoken(dialogue) == [("Hi", "Hello")]
    assert dialogue.system == "Be brief."


def test_an_agents_span_counts_only_without_requests_inside(tmp_path: Path) -> None:
    def span(n: int, operation: str, trace_id: str) -> dict[str, Any]:
        texts = {
            "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": f"Q{trace_id}"}]}]
            )
        }
        texts["gen_ai.output.messages"] = json.dumps(
            [{"role": "assistant", "parts": [{"type": "text", "content": f"A{n}"}]}]
        )
        return {"traceId": trace_id, "spanId": str(n), "attributes": {"gen_ai.operation.name": operation, **texts}}

    rows = [
        span(1, "invoke_agent", "x"),
        span(2, "chat", "x"),
        span(3, "invoke_agent", "y"),
        span(4, "embeddings", "y"),
    ]
    assert [spoken(one) for one in from_lines(tmp_path, *rows)] == [[("Qx", "A2")], [("Qy", "A3")]]


# The command


def test_convert_detects_a_log_and_says_what_it_did(convbatch: Command, tmp_path: Path) -> None:
    done = convbatch("convert", SAMPLES / "otel_new.jsonl", "cases.jsonl")
    assert done.code == 0
    assert "5 requests read, 2 of them the beginning of longer ones" in done.err
    assert "3 dialogues written to cases.jsonl" in done.err
    assert convbatch("validate", "cases.jsonl").code == 0


@pytest.mark.parametrize("file", ["otel_new.jsonl", "otel_otlp_spans.jsonl", "phoenix.jsonl"])
def test_a_log_in_place_of_a_dataset_is_refused_with_the_command_that_helps(file: str, convbatch: Command) -> None:
    done = convbatch("validate", SAMPLES / file)
    assert done.code == 2
    assert "convbatch convert IN OUT.jsonl" in done.out + done.err


def test_converted_cases_run_against_a_model(convbatch: Command) -> None:
    convbatch("convert", SAMPLES / "phoenix.parquet", "cases.jsonl")
    done = convbatch("run", "cases.jsonl", "-m", "sim-good@simulator", "--tag", "source:phoenix")
    assert done.code == 0, done.err
    assert "3/3" in done.out + done.err or "3 dialogues" in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "langfuse", "otel_new.jsonl"], "neither a trace nor an observation of Langfuse"),
        (["--from", "otell", "otel_new.jsonl"], "did you mean 'otel'?"),
        (["otel_new.jsonl", "promptfoo_results.json"], "convert each kind by itself"),
        (["otel_new.jsonl", "otel_new.jsonl"], "the same file is given twice"),
        (["otel_new.jsonl", "--reference"], "--reference is for MT-Bench"),
        (["chat.json", "--partial"], "chat.json is not recognised as a log"),
    ],
)
def test_convert_refuses(arguments: Sequence[str], told: str, convbatch: Command, tmp_path: Path) -> None:
    named = [str(SAMPLES / one) if "." in one else one for one in arguments]
    done = convbatch("convert", *named, "out.jsonl")
    assert done.code == 2
    assert told in done.err
    assert not (tmp_path / "out.jsonl").exists()
