"""A task of inspect_ai whose solver generates once for each message of the user; it keeps inspect's log."""

from __future__ import annotations

import os

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.solver import Generate, Solver, TaskState, solver

from benchmarks.dialogues import KEY, MODEL, user_text
from benchmarks.peer_clients.command_line import read_task


@solver
def scripted(turns: int) -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        state = await generate(state)
        for turn in range(2, turns + 1):
            state.messages.append(ChatMessageUser(content=user_text(int(state.sample_id), turn)))
            state = await generate(state)
        return state

    return solve


def main() -> None:
    task = read_task(__doc__)
    os.environ |= {"BENCH_API_KEY": KEY, "BENCH_BASE_URL": f"{task.url}/v1"}
    dataset = MemoryDataset([Sample(id=number, input=user_text(number, 1)) for number in range(task.dialogues)])
    logs = eval(
        Task(dataset=dataset, solver=scripted(task.turns)),
        model=f"openai-api/bench/{MODEL}",
        log_dir=str(task.out),
        max_connections=task.concurrency,
        max_samples=task.concurrency,
        display="none",
    )
    if any(log.status != "success" for log in logs):
        raise SystemExit(f"inspect_ai: {logs[0].status}: {logs[0].error}")


if __name__ == "__main__":
    main()
