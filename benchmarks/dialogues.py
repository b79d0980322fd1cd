"""The same dialogues for every client, as a dataset or turn by turn."""

from __future__ import annotations

import json
from pathlib import Path

MODEL = "bench-model"
KEY = "bench-key-0123456789abcdefghijklmnopqrstuv"  # a fake; long enough to be searched for in every body


_FILLER = "The quick brown fox jumps over the lazy dog. 天气很好。 "


def user_text(dialogue: int, turn: int, size: int = 0) -> str:
    """Return a question, different in every dialogue, of about `size` bytes if it is shorter."""
    return padded(f"Dialogue {dialogue}, turn {turn}: 今天是2025年12月26日, so what day is tomorrow?", size)


def padded(text: str, size: int) -> str:
    """Return a text with as much filler behind it that it has about `size` bytes."""
    missing = size - len(text.encode())
    return text if missing <= 0 else f"{text} {_FILLER * (missing // len(_FILLER.encode()))}"


def write_dataset(path: Path, dialogues: int, turns: int, size: int = 0) -> None:
    """Write a canonical dataset; a million dialogues take a few seconds."""
    with path.open("w", encoding="utf-8") as file:
        for dialogue in range(dialogues):
            messages = [{"user": user_text(dialogue, turn, size)} for turn in range(1, turns + 1)]
            file.write(json.dumps({"id": f"d{dialogue}", "turns": messages}, ensure_ascii=False) + "\n")
