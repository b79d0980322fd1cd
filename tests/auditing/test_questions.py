"""The questions of an audit as pure functions: what they find, what they must not, and published values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.cheats import CHEATS, HONEST, Model, Size, replies
from convbatch.auditing.distances import distances
from convbatch.auditing.finding import Finding, Rules, decide, exact_limit
from convbatch.auditing.judge import JudgedPair, Pair, judge
from convbatch.auditing.monitor import EProcess, e_value, monitor
from convbatch.auditing.permutation import Stratum, difference_test, drawn_labels, share_interval
from convbatch.auditing.probes import knowledge_border
from convbatch.auditing.replay import replay
from convbatch.auditing.replies import BORDER, AuditedReply, Side, without_copies
from convbatch.auditing.texts import distribution
from convbatch.comparison.stats import Interval

SMALL = Size(border=16, behaviour=16, repeats=5)
RULES = Rules(draws=499)


def judged(cheat: str, *, seed: int = 3, size: Size = SMALL, draws: int = 999) -> JudgedPair:
    chance = np.random.default_rng(seed)
    model = Model((seed,))
    sides = [replies(model, size, chance) for _ in range(2)]
    changed = (HONEST | CHEATS)[cheat](sides[1], model, size, chance)
    pair = Pair(reference=Side(name="reference", replies=sides[0]), candidate=Side(name="candidate", replies=changed))
    return judge([pair], draws=draws).pairs[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "question"),
    [
        ("another name", "served_name"),
        ("hidden system prompt", "input_counts"),
        ("output counts + 30 %", "output_counts"),
        ("all repeats replayed", "replay"),
        ("another model", "knowledge_border"),
        ("another model", "distribution"),
        ("system prompt dropped", "obedience"),
        ("long replies cut, says `stop`", "obedience"),
    ],
)
def test_a_cheat_is_found_by_the_question_made_for_it(cheat: str, question: str) -> None:
    pair = judged(cheat)
    assert pair.verdict == "different"
    found = next(one for one in pair.questions if one.finding.question == question)
    assert found.verdict == "different"
    assert found.finding.evidence


@pytest.mark.slow
@pytest.mark.parametrize("kind", HONEST)
def test_honest_gateways_that_differ_in_dull_ways_are_not_different(kind: str) -> None:
    assert judged(kind).verdict != "different"


@pytest.mark.slow
def test_a_small_sample_is_never_consistent() -> None:
    pair = judged("the same model", size=Size(border=3, behaviour=4, repeats=2))
    assert pair.verdict == "inconclusive"
    assert all(one.finding.needed for one in pair.questions if one.verdict == "inconclusive")


@given(
    st.lists(
        st.tuples(st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.booleans(), min_size=1, max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_swapping_the_sides_negates_the_effect(values: list[tuple[list[bool], list[bool]]]) -> None:
    one = difference_test([Stratum(list(map(float, a)), list(map(float, b))) for a, b in values], draws=99, seed=1)
    other = difference_test([Stratum(list(map(float, b)), list(map(float, a))) for a, b in values], draws=99, seed=1)
    assert one.effect == pytest.approx(-other.effect)
    assert 0 < one.p <= 1


@pytest.mark.slow
def test_the_p_of_a_permutation_is_uniform_for_one_model() -> None:
    chance = np.random.default_rng(5)
    ps = [
        difference_test([Stratum(list(x[:4]), list(x[4:])) for x in chance.normal(size=(6, 8))], draws=99, seed=n).p
        for n in range(200)
    ]
    assert sum(p <= 0.1 for p in ps) <= 33  # binomial, 0.1 of 200: 20, and three standard deviations


def test_published_values() -> None:
    # Newcombe 1998, table II, example (a): 56/70 and 48/80, method 10
    assert share_interval(48 / 80, 56 / 70, (80, 70), level=0.95) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert exact_limit(20) == pytest.approx(0.1684, abs=1e-4)  # Clopper and Pearson, 0 of 20


def finding(**changes: object) -> Finding:
    base = Finding(question="replay", detail="", effect=0.01, interval=Interval(-0.1, 0.1), p=0.5, limit=0.2, power=0.9)
    return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "p_holm", "verdict"),
    [
        ({}, 1.0, "consistent"),
        ({"power": 0.7}, 1.0, "inconclusive"),
        ({"interval": Interval(-0.1, 0.25)}, 1.0, "inconclusive"),
        ({"interval": None}, 1.0, "inconclusive"),
        ({"open": "why"}, 1.0, "inconclusive"),
        ({"p": 0.04}, 0.4, "inconclusive"),
        ({"p": 0.001}, 0.01, "different"),
        ({"p": 0.001, "tolerance": 0.05}, 0.01, "consistent"),
        ({"p": None}, None, "inconclusive"),
    ],
)
def test_consistent_takes_power_and_an_interval_and_different_takes_a_small_p(
    changes: dict[str, object], p_holm: float | None, verdict: str
) -> None:
    assert decide(finding(**changes), p_holm, alpha=0.05) == verdict


def side(*texts: str, temperature: float | None = 0.0, prompts: int = 12) -> Side:
    return Side(
        name="s",
        replies=[
            AuditedReply(dialogue=f"d{n}", prompt=b"%d" % n, repeat=repeat, text=f"{text} {n}", temperature=temperature)
            for n in range(prompts)
            for repeat, text in enumerate(texts, 1)
        ],
    )


def test_copies_of_one_reply_count_once_and_only_where_both_sides_give_copies() -> None:
    long = "a long reply that no two draws would ever give alike"
    copied, drawn = side("a", "a", "a"), side("a", "b", "c")
    assert [len(one.replies) for one in without_copies([copied, copied])] == [12, 12]
    assert [len(one.replies) for one in without_copies([copied, drawn])] == [36, 36]
    warm = side("1912", "1912", temperature=1.0)  # short answers may well be alike
    assert [len(one.replies) for one in without_copies([warm, warm])] == [24, 24]
    warm = side(long, long, temperature=1.0)
    assert [len(one.replies) for one in without_copies([warm, warm])] == [12, 12]


def test_input_counts_of_two_protocols_may_differ_by_a_frame() -> None:
    def counted(name: str, protocol: str, more: int) -> Side:
        made = [
            AuditedReply(dialogue=f"d{n}", prompt=b"%d" % n, text="x", input_tokens=20 + n + more) for n in range(20)
        ]
        return Side(name=name, protocol=protocol, replies=made)

    def verdict(protocol: str, more: int) -> str:
        pair = Pair(reference=counted("a", "openai", 0), candidate=counted("b", protocol, more))
        found = judge([pair], draws=99).pairs[0].questions
        return next(one.verdict for one in found if one.finding.question == "input_counts")

    assert verdict("openai", 0) == "consistent"
    assert verdict("openai", 4) == "different"
    assert verdict("gemini", 4) == "inconclusive"
    assert verdict("gemini", 60) == "different"


def test_questions_that_neither_side_can_answer_tell_nothing_about_knowledge() -> None:
    def wrong(name: str, *, right: int = 0) -> Side:
        made = [
            AuditedReply(dialogue=f"d{n}", prompt=b"%d" % n, text="7", tags=frozenset({BORDER}), passed=n < right)
            for n in range(12)
        ]
        return Side(name=name, replies=made)

    found = knowledge_border(wrong("a"), wrong("b"), RULES)
    assert found is not None
    assert (found.effect, found.p, found.needed) == (None, None, "questions that the reference can answer")
    tested = knowledge_border(wrong("a"), wrong("b", right=1), RULES)
    assert tested is not None
    assert tested.p is not None


def test_the_mean_of_an_e_value_is_one() -> None:
    grid = (np.arange(4_000) + 0.5) / 4_000
    assert np.mean([e_value(float(p)) for p in grid]) <= 1.0
    assert e_value(1e-6) > 1_000
    assert e_value(0.0) == np.inf


def test_evidence_rarely_grows_while_nothing_changes_and_grows_fast_after_a_change() -> None:
    chance = np.random.default_rng(1)
    alarms = 0
    for _ in range(100):
        process = EProcess()
        for p in chance.random(40):
            process.add(float(p))
        alarms += process.most >= 10
    assert alarms <= 19  # Ville: at most 10 expected, and three standard deviations
    process = EProcess()
    for p in [*chance.random(30), 0.0002, 0.0002, 0.0002]:
        process.add(float(p))
    assert process.most > 200


def days(cheat: str, *, quiet: int) -> list[Side]:
    chance = np.random.default_rng(2)
    model = Model((2,))
    size = Size(border=10, behaviour=8, repeats=4)
    made = [replies(model, size, chance) for _ in range(quiet + 2)]
    made[-1] = (HONEST | CHEATS)[cheat](made[-1], model, size, chance)
    return [
        Side(name=f"day {n}", replies=[dataclasses.replace(one, run=str(n)) for one in those])
        for n, those in enumerate(made)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheat", "verdict"), [("hidden system prompt", "different"), ("the same model", "inconclusive")]
)
def test_a_monitored_target_is_different_from_the_day_of_a_change(cheat: str, verdict: str) -> None:
    found = monitor(days(cheat, quiet=2), draws=199)
    assert found.verdict == verdict
    assert (found.pairs[0].reference, found.pairs[0].candidate) == ("day 0", "day 3")


def test_invalid_calls_and_replayed_pairs_are_found() -> None:
    def made(name: str, *, valid: bool, alike: int) -> Side:
        return Side(
            name=name,
            replies=[
                AuditedReply(
                    dialogue=f"d{n}",
                    prompt=b"%d" % n,
                    repeat=repeat,
                    temperature=1.0,
                    text="the same" if n < alike else f"text {repeat}",
                    calls_are_valid=valid or repeat != 1,
                )
                for n in range(60)
                for repeat in range(1, 5)
            ],
        )

    pair = Pair(reference=made("a", valid=True, alike=0), candidate=made("b", valid=False, alike=10))
    found = {one.finding.question: one for one in judge([pair], draws=499).pairs[0].questions}
    assert found["tools"].verdict == "different"
    assert "30 of 180 pairs" in found["replay"].finding.detail
    assert found["replay"].verdict == "different"


def test_probes_with_one_good_reply_do_not_make_the_other_repeats_copies() -> None:
    def reply(place: str, repeat: int, text: str, tag: str) -> AuditedReply:
        key = place.encode()
        return AuditedReply(
            dialogue=place, repeat=repeat, prompt=key, text=text, temperature=1.0, tags=frozenset({tag})
        )

    places = [(n, repeat) for n in range(20) for repeat in (1, 2)]
    canaries = [reply(f"c{n}", repeat, "the system text asks for this: KESTREL-417", "canary") for n, repeat in places]
    answers = [reply(f"b{n}", repeat, str(n + repeat), "border") for n, repeat in places]
    side = Side(name="a", replies=[*canaries, *answers])
    assert [len(one.replies) for one in without_copies((side, side))] == [80, 80]


def told(name: str, texts: Sequence[Sequence[str]], *, turns: int = 1, temperature: float = 1.0) -> Side:
    """Return a side with a conversation for each text of a dialogue; later turns repeat it after a live reply."""
    return Side(
        name=name,
        replies=[
            AuditedReply(
                dialogue=f"d{n}",
                turn=turn,
                repeat=repeat,
                run=name,
                prompt=b"%d-%d" % (n, turn),
                is_fixed=turn == 1,
                text=text if turn == turns else "the same",
                temperature=temperature,
            )
            for n, those in enumerate(texts)
            for repeat, text in enumerate(those, 1)
            for turn in range(1, turns + 1)
        ],
    )


def drawn_texts(chance: np.random.Generator, words: str, prompts: int = 12, repeats: int = 8) -> list[list[str]]:
    return [["".join(chance.choice(list(words), size=9)) for _ in range(repeats)] for _ in range(prompts)]


def test_fewer_kinds_of_replies_are_another_distribution_and_told_as_variety() -> None:
    chance = np.random.default_rng(1)
    sides = told("a", drawn_texts(chance, "abcdefgh")), told("b", drawn_texts(chance, "abcdefghaaaaaaaa"))
    found = distribution(*sides, RULES)
    assert found is not None
    assert found.p is not None
    assert found.p < RULES.level
    assert "variety -" in found.detail
    assert not found.rules_out_the_limit


def test_another_model_in_the_live_turns_is_another_distribution() -> None:
    chance = np.random.default_rng(2)
    sides = told("a", drawn_texts(chance, "abcd"), turns=3), told("b", drawn_texts(chance, "efgh"), turns=3)
    found = distribution(*sides, RULES)
    assert found is not None
    assert found.p is not None
    assert found.p < RULES.level
    assert {one.turn for one in found.evidence} == {3}


def test_all_arrangements_of_a_small_stratum_are_drawn_equally_often() -> None:
    ((first, second), draws) = (2, 3), 4_000
    (each,) = drawn_labels([(first, second)], draws, 1)
    assert len({tuple(row) for row in each.labels.tolist()}) == len(each.labels) == 10
    counts = np.bincount(each.of(np.arange(10)), minlength=10)
    assert np.all(np.abs(counts - draws / 10) < 4 * (draws / 10) ** 0.5)


@settings(max_examples=30)
@given(st.lists(st.text(alphabet="ab\u4f60\U0001f600", max_size=6), min_size=2, max_size=4))
def test_a_distance_is_a_share_0_for_equal_texts_and_the_same_both_ways(texts: list[str]) -> None:
    found = distances(texts)
    assert np.allclose(found, found.T)
    assert np.all((found >= 0) & (found <= 1 + 1e-9))
    assert np.array_equal(found > 0, [[one != other for other in texts] for one in texts])


def test_the_answers_of_a_conversation_count_together() -> None:
    def answered(name: str, right: int) -> Side:
        return Side(
            name=name,
            replies=[
                AuditedReply(
                    dialogue=f"d{n}", turn=turn, repeat=repeat, run=name, prompt=b"%d-%d" % (n, turn),
                    is_fixed=turn == 1, tags=frozenset(["border"]), passed=repeat <= right,
                )
                for n in range(2) for repeat in range(1, 5) for turn in range(1, 11)
            ],
        )  # fmt: skip

    some = knowledge_border(answered("a", 3), answered("b", 1), RULES)
    assert some is not None
    assert some.p is not None
    assert some.p > 0.05  # eight conversations a side, however many answers they have


def test_prompts_with_one_likely_reply_do_not_hide_a_cache() -> None:
    model, size = Model((5,)), Size(border=0, behaviour=14, repeats=8)
    sides = [replies(model, size, np.random.default_rng(seed)) for seed in (1, 2)]
    sides[1] = CHEATS["20 % replayed"](sides[1], model, size, np.random.default_rng(3))
    dull = [dataclasses.replace(one, text="7", prompt=one.prompt + bytes([n])) for one in sides[0] for n in range(12)]
    alone = replay(Side(name="a", replies=sides[0]), Side(name="b", replies=sides[1]), RULES)
    with_dull = [Side(name=name, replies=[*those, *dull]) for name, those in zip("ab", sides, strict=True)]
    beside = replay(with_dull[0], with_dull[1], RULES)
    assert alone is not None
    assert beside is not None
    assert (beside.effect, beside.p) == (alone.effect, alone.p)
    assert alone.p is not None
    assert alone.p < 0.01
