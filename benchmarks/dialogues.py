"""What is asked: the same dialogues for every client, written as a dataset or said turn by turn."""

from __future__ import annotations

import json
from pathlib import Path

MODEL = "bench-model"
KEY = "bench-key-0123456789abcdefghijklmnopqrstuv"  # opens nothing; long enough to be searched for in every body


def user_text(dialogue: int, turn: int) -> str:
    """A short question, different in every dialogue."""
    return f"Dialogue {dialogue}, turn {turn}: 今天是2025年12月26日, so what day is tomorrow?"


def write_dataset(path: Path, dialogues: int, turns: int) -> None:
    """A canonical dataset; a million dialogues take a few seconds."""
    with path.open("w", encoding="utf-8") as file:
        for dialogue in range(dialogues):
            said = [{"user": user_text(dialogue, turn)} for turn in range(1, turns + 1)]
            file.write(json.dumps({"id": f"d{dialogue}", "turns": said}, ensure_ascii=False) + "\n")
