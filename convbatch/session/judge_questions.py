"""Stored replies whose checks ask for a judge → the questions to put to it, as conversations a runner can play.

They pass the same gate, retries and journal as any other call, with the role `judge`. What is asked is
`checks/llm_rubric.py`, what about `results/verdicts.py`, and what the answers mean is found out by whoever reads the
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from convbatch.checks.llm_rubric import SYSTEM
from convbatch.config.gateways import Target
from convbatch.dialogue import Dialogue, Turn, text_part
from convbatch.engine.plan import Conversation, JudgedItem
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.run_folder import RunFolder
from convbatch.results.conversations import stored_conversations
from convbatch.results.verdicts import questions_for_judge


def judge_conversations(
    folder: RunFolder, meta: Mapping[str, Any], archive: Archive, judge: Target
) -> Iterator[Conversation]:
    """Everything a judge has to be asked about what was received, in the order of the table; also what it has answered.

    Args:
        folder: The run, with its dataset and the checks that hold.
        meta: Of `run.json`.
        archive: Its journal.
        judge: Who is asked.
    """
    for stored in stored_conversations(folder, meta, archive):
        for turn, question in questions_for_judge(stored.result):
            yield Conversation(
                dialogue=Dialogue(
                    id=stored.dialogue.id, system=SYSTEM, turns=(Turn(user=(text_part(question.text),)),)
                ),
                index=stored.head[2],
                target=judge,
                repeat=stored.result.repeat,
                about=JudgedItem(stored.result.target, turn, question.digest),
            )


def past_judge_turns(archive: Archive, conversation: Conversation) -> Mapping[int, TurnHistory]:
    """What became of a question in earlier sessions, as that of the one turn its conversation has."""
    about = conversation.about
    assert about is not None
    for one in archive.judge_calls(conversation.index, about.target, conversation.repeat):
        if (one.judge, one.turn, one.question) == (conversation.target.name, about.turn, about.asked):
            return {1: one.history}
    return {}
