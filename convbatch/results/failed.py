"""Which dialogues of a run failed: a check did not pass, or a turn ended in an error, at any target and repeat."""

from __future__ import annotations

from convbatch.checks.builtin import CheckRunner
from convbatch.journal.index import Archive
from convbatch.journal.run_folder import RunFolder
from convbatch.results.conversations import StoredConversation, stored_conversations
from convbatch.results.verdicts import evaluate_checks


def failed_dialogues(folder: RunFolder) -> frozenset[str]:
    """Return the ids; a turn without a result yet has not failed, and neither has a check without a verdict.

    The checks are the current ones of the run folder, evaluated on the stored replies.
    """
    runner = CheckRunner()
    failed: set[str] = set()
    with Archive(folder) as archive:
        for stored in stored_conversations(folder, folder.read_manifest(), archive):
            if stored.id.dialogue not in failed and _failed(stored, runner):
                failed.add(stored.id.dialogue)
    return frozenset(failed)


def _failed(stored: StoredConversation, runner: CheckRunner) -> bool:
    if any(past.status == "error" for past in stored.asked.values()):
        return True
    return any(outcome.verdict.passed is False for outcome in evaluate_checks(stored.result, runner))
