"""Example checks. Each function takes a reply with its context and returns a pass or fail, or a score from 0 to 1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convbatch import CheckInput

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def no_invented_numbers(check_input: CheckInput) -> tuple[bool, str]:
    """Pass if every number in the reply occurs in the script."""
    script = check_input.dialogue
    given = [script.system or "", *(turn.user_text for turn in script.turns)]
    given += [turn.assistant or "" for turn in script.turns]
    known = set(_NUMBER.findall("\n".join(given)))
    invented = [number for number in _NUMBER.findall(check_input.text) if number not in known]
    return not invented, f"invented: {', '.join(invented)}" if invented else "every number was given"


def answers_in_chinese(check_input: CheckInput) -> float:
    """The share of letters that are Chinese; 1 passes."""
    letters = [sign for sign in check_input.text if sign.isalpha()]
    return sum("\u4e00" <= sign <= "\u9fff" for sign in letters) / len(letters) if letters else 0.0
