"""A loop over the chats of `google-genai`, one JSONL line a reply."""

from __future__ import annotations

import asyncio
import json

from google import genai
from google.genai import types

from benchmarks.dialogues import KEY, MODEL, user_text
from benchmarks.peer_clients.command_line import in_parallel, read_task


async def main() -> None:
    task = read_task(__doc__)
    client = genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=task.url))
    with task.out.open("w", encoding="utf-8") as lines:

        async def converse(dialogue: int) -> None:
            chat = client.aio.chats.create(model=MODEL)
            for turn in range(1, task.turns + 1):
                reply = await chat.send_message(user_text(dialogue, turn))
                line = {"dialogue": dialogue, "turn": turn, "reply": reply.text}
                candidates, usage = reply.candidates, reply.usage_metadata
                line |= {"finish_reason": candidates and candidates[0].finish_reason}
                line |= {"usage": usage and usage.model_dump(exclude_none=True, mode="json")}
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")

        await in_parallel(task, converse)
    await client.aio.aclose()


if __name__ == "__main__":
    asyncio.run(main())
