"""The same dialogues for every client, as a dataset or turn by turn."""

from __future__ import annotations

import json
from pathlib import Path

MODEL = "bench-model"
KEY = "bench-key-0123456789abcdefghijklmnopqrstuv"  # a fake; long enough to be searched for in every body


def user_text(dialogue: int, turn: int) -> str:
    """Return a short question, different in every dialogue."""
    return f"Dialogue {dialogue}, turn {turn}: 今天是2025年12月26日, so what day is tomorrow?"


def write_dataset(path: Path, dialogues: int, turns: int) -> None:
    """Write a canonical dataset; a million dialogues take a few seconds."""
    with path.open("w", encoding="utf-8") as file:
        for dialogue in range(dialogues):
            messages = [{"user": user_text(dialogue, turn)} for turn in range(1, turns + 1)]
            file.write(json.dumps({"id": f"d{dialogue}", "turns": messages}, ensure_ascii=False) + "\n")
