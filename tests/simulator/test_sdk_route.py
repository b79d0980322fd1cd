"""A chat of google-genai's SDK and a run of the same script send the same histories, to `convbatch simulate` itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Command, Start, config_for

MODEL = "gemini-2.5-flash"
QUESTIONS = ["今天是2025年12月26日", "明天是几号", "And the day after?"]
ANSWERS = ["好的,2025年12月26日。", "明天是2025年12月27日。", "2025年12月28日"]
# As a page for beginners has it: the base URL, the version, a chat, and its history at the end.
CHAT = """
import sys
from google import genai

client = genai.Client(api_key="sk-any-key-000001", http_options={"api_version": "v1beta", "base_url": sys.argv[1]})
chat = client.chats.create(model=sys.argv[2])
for question in sys.argv[3:]:
    print(chat.send_message(question).text)
for message in chat.get_history():
    print(f"{message.role}: {message.parts[0].text}")
"""


@pytest.mark.slow
def test_the_sdk_and_a_run_hold_the_same_conversation(start: Start, convbatch: Command, tmp_path: Path) -> None:
    turns = [{"user": ask, "assistant": reply} for ask, reply in zip(QUESTIONS, ANSWERS, strict=True)]
    (tmp_path / "script.jsonl").write_text(json.dumps({"id": "dates", "turns": turns}))
    server = start("simulate", "--model", MODEL, "--script", "script.jsonl", "--ledger", "ledger.jsonl")
    assert server.stdout is not None
    url = server.stdout.readline().decode().split()[-1]

    told = subprocess.run(
        [sys.executable, "-c", CHAT, url, MODEL, *QUESTIONS], capture_output=True, text=True, check=True, timeout=60
    )
    (tmp_path / "ask.jsonl").write_text(json.dumps({"turns": [{"user": ask} for ask in QUESTIONS]}))
    (tmp_path / "convbatch.toml").write_text(config_for(url))
    run = convbatch("run", "ask.jsonl", "-m", f"{MODEL}@at-gemini", "-o", "r")
    assert run.code == 0, run.err
    table = convbatch("table", "r", "--wide", "reply", "-o", "replies.json")
    assert table.code == 0, table.err

    histories = re.findall(r'"history_sha":"(\w+)"', (tmp_path / "ledger.jsonl").read_text())
    assert len(histories) == 6
    assert histories[:3] == histories[3:]
    roles = [
        line for pair in zip(QUESTIONS, ANSWERS, strict=True) for line in zip(("user", "model"), pair, strict=True)
    ]
    assert told.stdout.splitlines() == [*ANSWERS, *(f"{role}: {text}" for role, text in roles)]
    assert [row[f"{MODEL}@at-gemini"] for row in json.loads((tmp_path / "replies.json").read_text())] == ANSWERS


def test_a_name_for_an_unknown_simulated_model_is_refused(convbatch: Command) -> None:
    done = convbatch("simulate", "--model", "gemini-2.5-flash=sim-nobody")
    assert done.code == 2
    assert "'gemini-2.5-flash': no simulated model 'sim-nobody'; known: sim-good" in done.err
