"""A loop over the `openai` SDK's chat completions, one JSONL line a reply."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from openai import AsyncOpenAI

from benchmarks.dialogues import KEY, MODEL, user_text
from benchmarks.peer_clients.command_line import in_parallel, read_task

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam


async def main() -> None:
    task = read_task(__doc__)
    with task.out.open("w", encoding="utf-8") as lines:
        async with AsyncOpenAI(api_key=KEY, base_url=f"{task.url}/v1", max_retries=0) as client:

            async def converse(dialogue: int) -> None:
                messages: list[ChatCompletionMessageParam] = []
                for turn in range(1, task.turns + 1):
                    messages.append({"role": "user", "content": user_text(dialogue, turn)})
                    reply = await client.chat.completions.create(model=MODEL, messages=messages)
                    choice = reply.choices[0]
                    messages.append({"role": "assistant", "content": choice.message.content})
                    line = {"dialogue": dialogue, "turn": turn, "reply": choice.message.content}
                    line |= {"finish_reason": choice.finish_reason, "usage": reply.usage and reply.usage.model_dump()}
                    lines.write(json.dumps(line, ensure_ascii=False) + "\n")

            await in_parallel(task, converse)


if __name__ == "__main__":
    asyncio.run(main())
