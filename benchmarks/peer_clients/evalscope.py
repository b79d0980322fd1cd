"""`evalscope perf` with conversations from a file; it keeps its SQLite database of results."""

from __future__ import annotations

import json

from evalscope.perf.arguments import Arguments
from evalscope.perf.main import run_perf_benchmark

from benchmarks.dialogues import KEY, MODEL, user_text
from benchmarks.peer_clients.command_line import read_task


def main() -> None:
    task = read_task(__doc__)
    task.out.mkdir()
    dataset = task.out / "dialogues.jsonl"
    with dataset.open("w", encoding="utf-8") as lines:
        for dialogue in range(task.dialogues):
            messages: list[dict[str, str]] = []
            for turn in range(1, task.turns + 1):  # the script's replies only separate the turns
                messages.append({"role": "user", "content": user_text(dialogue, turn)})
                messages.append({"role": "assistant", "content": "-"})
            lines.write(json.dumps(messages[:-1], ensure_ascii=False) + "\n")
    arguments = Arguments(
        model=MODEL,
        url=f"{task.url}/v1/chat/completions",
        api="openai",
        api_key=KEY,
        dataset="custom_multi_turn",
        dataset_path=str(dataset),
        multi_turn=True,
        number=task.dialogues,
        parallel=task.concurrency,
        stream=False,
        no_test_connection=True,
        outputs_dir=str(task.out),
    )
    run_perf_benchmark(arguments)


if __name__ == "__main__":
    main()
