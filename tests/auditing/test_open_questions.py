"""Honest differences that are none, and cheats that hide: what questions leave open, and what they still find."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from convbatch.auditing.bills import money
from convbatch.auditing.judge import JudgedQuestion, Pair, judge
from convbatch.auditing.replies import BORDER, AuditedReply, Side
from convbatch.reporting.usage_log_matching import SAME, UNKNOWN, Call, CallId, JoinedPair
from convbatch.reporting.usage_log_reader import UsageLogLine


def ask(reference: Side, candidate: Side) -> dict[str, JudgedQuestion]:
    pair = judge([Pair(reference=reference, candidate=candidate)], draws=199).pairs[0]
    return {one.finding.question: one for one in pair.questions}


def counted(
    name: str, *counts: tuple[int, int, int | None], protocol: str = "openai", text: str = "word " * 30
) -> Side:
    """Return a side with one reply to each of some prompts: input, output and reasoning tokens."""
    replies = [
        AuditedReply(
            dialogue=f"d{at}",
            prompt=bytes([at]),
            text="word " * 30,
            input_tokens=into,
            output_tokens=out,
            reasoning_tokens=why,
        )
        for at, (into, out, why) in enumerate(counts)
    ]
    return Side(name=name, replies=replies)


def test_reasoning_that_a_gateway_reports_as_zero_is_not_taken_for_none() -> None:
    reference = counted("a", *[(20, 80 + at, 40 + at) for at in range(20)])
    inside = ask(reference, counted("b", *[(20, 82 + at, 0) for at in range(20)]))
    none = ask(reference, counted("b", *[(20, 40, 0) for _ in range(20)]))
    assert {inside[one].verdict for one in ("output_counts", "reasoning_tokens")} == {"inconclusive"}
    assert "does not report" in inside["reasoning_tokens"].finding.detail
    assert none["reasoning_tokens"].verdict == "different"


def test_input_counts_that_are_unknown_or_vary_at_the_reference_are_no_difference() -> None:
    reference = counted("a", *[(20, 40, None) for _ in range(20)])
    assert ask(reference, counted("b", (0, 40, None), *[(20, 40, None) for _ in range(19)]))["input_counts"].p_holm == 1
    repeats = [replace(one, input_tokens=21, repeat=2) for one in reference.replies[:1]]
    varied = replace(reference, replies=[*reference.replies, *repeats])
    found = ask(varied, counted("b", (22, 40, None), *[(20, 40, None) for _ in range(19)]))["input_counts"]
    assert found.verdict == "inconclusive"
    assert "in each repeat" in (found.finding.open or "")


@pytest.mark.parametrize(("more", "verdict"), [(1, "inconclusive"), (5, "different")])
def test_short_replies_with_the_same_text_are_counted_alike(more: int, verdict: str) -> None:
    reference, candidate = (
        Side(
            name=name,
            replies=[
                AuditedReply(dialogue=f"d{n}", prompt=bytes([n]), text=str(n), output_tokens=plus + 1 + n % 2)
                for n in range(30)
            ],
        )
        for name, plus in (("a", 0), ("b", more))
    )
    assert ask(reference, candidate)["output_counts"].verdict == verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1, "consistent"), (2, "different")])
def test_input_counts_of_live_turns_are_compared_by_what_each_turn_adds(factor: int, verdict: str) -> None:
    def talk(name: str, seed: int, factor: int) -> Side:
        chance, replies = random.Random(seed), list[AuditedReply]()
        for dialogue, repeat in itertools.product(range(20), range(4)):
            spoken = chance.randint(30, 60)
            first = AuditedReply(
                dialogue=str(dialogue), repeat=repeat, prompt=bytes([dialogue]), text="w" * 4 * spoken, input_tokens=20,
                output_tokens=spoken,
            )  # fmt: skip
            replies += [first, replace(first, turn=2, is_fixed=False, prompt=b"l", input_tokens=(35 + spoken) * factor)]
        return Side(name=name, replies=replies)

    assert ask(talk("a", 1, 1), talk("b", 2, factor))["input_counts"].verdict == verdict


def test_replies_that_a_platform_withholds_leave_the_pair_open_and_are_no_wrong_answers() -> None:
    honest = [
        AuditedReply(dialogue=f"d{n}", repeat=k, prompt=bytes([n]), text="42", tags=frozenset([BORDER]), passed=True)
        for n, k in itertools.product(range(20), range(1, 9))
    ]
    withheld = [replace(one, text="", passed=False, is_withheld=True) if one.repeat == 3 else one for one in honest]
    found = ask(Side(name="a", replies=honest), Side(name="b", replies=withheld))
    assert found["knowledge_border"].verdict != "different"
    assert found["obedience"].verdict == "inconclusive"
    assert "blocked or empty replies, left out: 0 % at a, 12.5 % at b" in (found["obedience"].finding.open or "")


def test_dialogues_that_only_one_side_answers_leave_the_pair_open() -> None:
    reference, candidate = (counted(name, *[(20, 40, None) for _ in range(40)]) for name in "ab")
    missing = frozenset(one.dialogue for one in candidate.replies[:4])
    silent = replace(candidate, replies=candidate.replies[4:], unanswered=missing)
    assert "no reply in 4 of 40 dialogues" in ask(reference, silent)["obedience"].finding.detail
    unasked = ask(reference, replace(candidate, replies=candidate.replies[4:]))
    assert all("no reply in" not in one.finding.detail for one in unasked.values())


def test_a_name_left_out_of_many_replies_is_open() -> None:
    reference = Side(name="a", replies=[AuditedReply(dialogue=str(n), served="m", match="same") for n in range(100)])
    some = [replace(one, served=None, match=None) if n % 3 == 0 else one for n, one in enumerate(reference.replies)]
    assert ask(reference, replace(reference, name="b"))["served_name"].verdict == "consistent"
    assert ask(reference, replace(reference, name="b", replies=some))["served_name"].verdict == "inconclusive"


@pytest.mark.parametrize(
    ("request_id", "seconds", "verdict"),
    [("r1", 0, "billed twice"), ("x9", 0, "elsewhere"), (None, 0, "billed twice"), (None, 40, "elsewhere")],
)
def test_a_call_billed_twice_is_different_and_other_use_of_the_key_is_open(
    request_id: str | None, seconds: int, verdict: str
) -> None:
    def line(number: int, name: str | None, at: float) -> UsageLogLine:
        return UsageLogLine(
            line=number, at=at, model="m", request_id=name, input_tokens=20, output_tokens=40, amount=None
        )

    has_ids = request_id is not None
    pairs = [
        JoinedPair(line=line(n, f"r{n}" if has_ids else None, 1000.0 * n), call=call(n), outcome=SAME)
        for n in range(1, 81)
    ]
    found = money([*pairs, JoinedPair(line=line(90, request_id, 1000.0 + seconds), outcome=UNKNOWN)])
    assert found is not None
    assert (found.p, verdict in f"{found.detail} {found.open}") == (0.0 if verdict == "billed twice" else 1.0, True)
    assert not found.rules_out_the_limit or found.p == 0


def call(number: int) -> Call:
    return Call(
        ident=CallId("run", "d", "m@g", 1, number, 1), kind="replied", model="m", begins=0.0, ends=1.0, request_id=None,
        input_tokens=20, output_tokens=40, cost=None, currency=None,
    )  # fmt: skip
