"""convbatch: replay scripted dialogues against language models, and compare the replies.

    run = convbatch.run("dialogues.jsonl", models=["gemini-3.5-flash-lite@google"])
    run.turns                      # a pandas frame, one row per turn
    run.wide("reply")              # the targets side by side

Every public name is imported from here; its module is loaded on first use.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbatch._version import __version__ as __version__
    from convbatch.api import replay as replay
    from convbatch.api import run as run
    from convbatch.api import stream_replay as stream_replay
    from convbatch.auditing.audit import audit as audit
    from convbatch.auditing.judge import Audit as Audit
    from convbatch.checks.values import CheckInput as CheckInput
    from convbatch.comparison.agreement import Agreement as Agreement
    from convbatch.comparison.agreement import judge_check as judge_check
    from convbatch.comparison.compare import Comparison as Comparison
    from convbatch.comparison.compare import compare as compare
    from convbatch.comparison.preferences import Preferences as Preferences
    from convbatch.comparison.rank import Ranking as Ranking
    from convbatch.comparison.rank import rank as rank
    from convbatch.comparison.reply_diff import ReplyDiff as ReplyDiff
    from convbatch.comparison.reply_diff import diff as diff
    from convbatch.config.in_code import Gateway as Gateway
    from convbatch.config.in_code import Target as Target
    from convbatch.config.json_schema import json_schema as json_schema
    from convbatch.dataset.collection import Dataset as Dataset
    from convbatch.dialogue import Dialogue as Dialogue
    from convbatch.dialogue import Part as Part
    from convbatch.dialogue import Settings as Settings
    from convbatch.dialogue import Turn as Turn
    from convbatch.dialogue import Variant as Variant
    from convbatch.errors import ConvbatchError as ConvbatchError
    from convbatch.errors import InputError as InputError
    from convbatch.errors import JournalDamaged as JournalDamaged
    from convbatch.errors import JournalError as JournalError
    from convbatch.errors import SetupError as SetupError
    from convbatch.preferring import prefer as prefer
    from convbatch.reporting.report import report as report
    from convbatch.results.run import Run as Run
    from convbatch.results.run import load as load
    from convbatch.results.turn_results import TurnResult as TurnResult
    from convbatch.turn_stream import TurnStream as TurnStream

_HOME = {
    "__version__": "_version",
    "run": "api",
    "replay": "api",
    "stream_replay": "api",
    "load": "results.run",
    "report": "reporting.report",
    "compare": "comparison.compare",
    "Comparison": "comparison.compare",
    "diff": "comparison.reply_diff",
    "ReplyDiff": "comparison.reply_diff",
    "json_schema": "config.json_schema",
    "rank": "comparison.rank",
    "Ranking": "comparison.rank",
    "prefer": "preferring",
    "Preferences": "comparison.preferences",
    "judge_check": "comparison.agreement",
    "Agreement": "comparison.agreement",
    "audit": "auditing.audit",
    "Audit": "auditing.judge",
    "Run": "results.run",
    "CheckInput": "checks.values",
    "TurnStream": "turn_stream",
    "TurnResult": "results.turn_results",
    "Dataset": "dataset.collection",
    "Dialogue": "dialogue",
    "Turn": "dialogue",
    "Part": "dialogue",
    "Settings": "dialogue",
    "Variant": "dialogue",
    "Gateway": "config.in_code",
    "Target": "config.in_code",
    "ConvbatchError": "errors",
    "InputError": "errors",
    "JournalDamaged": "errors",
    "JournalError": "errors",
    "SetupError": "errors",
}
_RENAMED = {"Said": "CheckInput"}
"""Public names of earlier versions and their new names; using one issues a `DeprecationWarning`."""
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]  # the names of the table above


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        warnings.warn(f"convbatch.{name} is now convbatch.{new}", DeprecationWarning, stacklevel=2)
        name = new
    if name not in _HOME:
        raise AttributeError(f"module 'convbatch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"convbatch.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
