"""Tests of `run --dry-run`: hand-computed cases, properties, and the command against the simulator's ledger."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from convbatch.cli.dry_run import shortest
from convbatch.cli.main import app
from convbatch.config.gateways import Gateway, Limits, Target
from convbatch.dialogue import Dialogue, HistoryMode, Settings
from convbatch.estimation.estimator import (
    DEFAULT_SPREAD,
    DEFAULT_TEXT_SPREAD,
    DEFAULT_WEIGHTS,
    Estimate,
    Estimator,
    ExpectedReply,
    Figures,
    ObservedTurn,
    TargetProfile,
    TextSize,
    default_profile,
    fit_profile,
    size_of,
)
from convbatch.estimation.history import stratified
from convbatch.pricing import Period, PriceTable, TokenPrice, exact
from convbatch.simulator.fault_script import FaultScript
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import serve_in_thread
from tests.conftest import QUICKSTART, Finished, environment
from tests.support.canary import CANARY_ENV

NOW = 1_780_000_000.0
TARGET = Target(model="m", gateway=Gateway(name="g", protocol="gemini", base_url="http://localhost"))
PRICES = PriceTable(
    currency="USD",
    source="by hand",
    periods=(Period(input=TokenPrice(base=Decimal(1)), output=TokenPrice(base=Decimal(10))),),
)
PROFILE = TargetProfile(
    weights=TextSize(1.0, 1.0, 4.0, 0.0),
    replies={0: ExpectedReply(text=TextSize(6, 0, 1), output_tokens=10)},
    text_spread=(0.9, 1.1),
    reply_spread=(0.5, 2.0),
    source="by hand",
    learned=True,
)


def dialogue(*turns: tuple[str, str | None], **more: object) -> Dialogue:
    plain = [{"user": user} if reply is None else {"user": user, "assistant": reply} for user, reply in turns]
    return Dialogue.from_plain({"id": "d", "turns": plain, **more})


def estimator(profile: TargetProfile = PROFILE, history: HistoryMode = "live", limit: int | None = None) -> Estimator:
    return Estimator(
        target=TARGET,
        profile=profile,
        prices=PRICES,
        at=NOW,
        history=history,
        command_line=Settings(max_output_tokens=limit),
    )


def figures(of: Figures | None) -> tuple[float, float, float, float]:
    assert of is not None
    assert of.cost is not None
    rounded = (of.calls, of.input_tokens, of.output_tokens, float(of.cost * 1_000_000))
    return tuple(round(value, 3) for value in rounded)  # pyright: ignore[reportReturnType]


# --- hand-computed


def test_a_live_history_grows_by_the_expected_replies() -> None:
    # 8 letters are 2 tokens, the message adds 4: 6. Then 6 + reply (6 + 4) + 6 = 22.
    found = estimator().one(dialogue(("abcdefgh", None), ("abcdefgh", None)))
    assert figures(found.expected) == (2, 28, 20, 28 + 200)
    # Low: replies half as long: 0.9 x 6, 0.9 x (6 + 3 + 4 + 6). High: twice: 1.1 x 6, 1.1 x (6 + 12 + 4 + 6).
    assert figures(found.low) == (2, 22.5, 10, 22.5 + 100)
    assert figures(found.high) == (2, 37.4, 40, 37.4 + 400)
    assert found.upper_bound is None


def test_a_scripted_history_grows_by_scripted_replies_and_only_asked_turns_are_calls() -> None:
    script = dialogue(("abcdefgh", "abcd"), ("abcdefgh", "abcd"), ("abcdefgh", None), system="ab")
    # System 0.5 + 4, user 6, reply 5: 10.5; 10.5 + 5 + 6; 21.5 + 5 + 6.
    assert figures(estimator(history="script").one(script).expected)[:3] == (3, 10.5 + 21.5 + 32.5, 30)
    assert figures(estimator(history="last").one(script).expected)[:3] == (1, 32.5, 10)


def test_several_replies_at_once_are_several_times_the_output_and_one_in_the_history() -> None:
    two_turns = dialogue(("abcdefgh", None), ("abcdefgh", None))
    one, three = (
        replace(estimator(limit=15), command_line=Settings(max_output_tokens=15, extra=extra)).one(two_turns)
        for extra in ({}, {"generationConfig": {"candidateCount": 3}})
    )
    for row in ("low", "expected", "high"):
        single, triple = getattr(one, row), getattr(three, row)
        assert (triple.input_tokens, triple.output_tokens) == (single.input_tokens, 3 * single.output_tokens)
    assert three.upper_bound is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from((3, 300))), max_size=60), st.integers(1, 12))
def test_a_profile_is_learned_from_every_tag_and_length_of_a_large_run(rows: list[tuple[str, int]], nth: int) -> None:
    dialogues = [dialogue(("x" * size, None), tags=[tag]) for tag, size in rows]
    taken = [index for index, _ in stratified(enumerate(dialogues), 1 / nth)]
    for row in set(rows):
        members = [index for index, other in enumerate(rows) if other == row]
        drawn = [index for index in taken if index in members]
        assert abs(len(drawn) - len(members) / nth) <= 1
        assert drawn[0] == members[0]


def test_a_reply_is_never_expected_to_be_longer_than_its_limit() -> None:
    found = estimator(limit=5).one(dialogue(("abcdefgh", None), ("abcdefgh", None)))
    # Half of the reply is sent back: 6 + (3 + 4) + 6 = 19. Low and high are at the limit as well.
    assert figures(found.expected) == (2, 25, 10, 25 + 100)
    assert [found.low.output_tokens, found.high.output_tokens] == [10, 10]


def test_the_upper_bound_counts_a_token_per_byte_and_replies_at_their_limit() -> None:
    found = estimator(limit=5).one(dialogue(("abcdefgh", None), ("今天", None)))
    # 16 for the frame of the request, 16 + 8 for the message: 40. Then 40 + 5 + 16 of the reply's frame + 16 + 6.
    assert figures(found.upper_bound) == (2, 40 + 83, 10, 123 + 100)


def test_the_default_profile_is_a_guess_that_uses_the_length_of_scripted_replies() -> None:
    found = estimator(default_profile("?")).one(dialogue(("今天几号啊", "abcd" * 20)))
    # Five characters of 0.8 tokens, and 4 tokens for the message; the reply has 20 tokens.
    assert figures(found.expected)[:3] == (1, 8, 20)
    assert figures(found.low)[:3] == (1, 4.8, 5)
    assert figures(found.high)[:3] == (1, 13.6, 80 + 1000)  # reasoning may be added
    assert figures(estimator(default_profile("?")).one(dialogue(("今天几号啊", None))).expected)[2] == 400


def test_dialogues_that_end_early_make_fewer_calls() -> None:
    found = estimator(replace(PROFILE, ends=0.5)).one(dialogue(("a", None), ("a", None), ("a", None)))
    assert [found.low.calls, found.expected.calls, found.high.calls] == [1, 1.75, 3]
    scripted = dialogue(("a", "a"), ("a", "a"), ("a", None))
    assert estimator(replace(PROFILE, ends=0.5), "script").one(scripted).low.calls == 3


def test_a_price_tier_applies_to_the_requests_above_it() -> None:
    tiered = Period(input=TokenPrice(base=Decimal(1), steps=((20, Decimal(2)),)), output=TokenPrice(base=Decimal(0)))
    tiered_estimator = replace(estimator(), prices=replace(PRICES, periods=(tiered,)))
    found = tiered_estimator.one(dialogue(("abcdefgh", None), ("abcdefgh", None)))  # 6 and 22 tokens
    assert found.expected.cost == Decimal(6 + 2 * 22) / 1_000_000


def test_an_estimate_counts_output_at_the_price_of_images_where_a_model_has_one() -> None:
    (period,) = PRICES.periods
    with_images = replace(PRICES, periods=(replace(period, output_image=TokenPrice(base=Decimal(120))),))
    text = estimator(limit=5).one(dialogue(("a", None)))
    image = replace(estimator(limit=5), prices=with_images).one(dialogue(("a", None)))
    for one, other in ((text.expected, image.expected), (text.upper_bound, image.upper_bound)):
        assert one is not None
        assert other is not None
        assert one.cost is not None
        assert other.cost == one.cost + exact(one.output_tokens) * (120 - 10) / 1_000_000


def test_an_estimate_without_a_price_has_tokens_but_no_cost() -> None:
    found = replace(estimator(limit=5), prices=None).one(dialogue(("a", None)))
    assert (found.expected.input_tokens, found.expected.cost) == (4.25, None)
    assert found.upper_bound is not None
    assert found.upper_bound.cost is None


# --- learning


def seen(dialogue: int, turn: int, sent: TextSize, tokens: int, output: int = 10) -> ObservedTurn:
    return ObservedTurn(
        dialogue=dialogue, turn=turn, sent=sent, reply=TextSize(8, 0, 1), input_tokens=tokens, output_tokens=output
    )


@pytest.mark.slow
def test_token_weights_of_characters_messages_and_requests_are_fitted() -> None:
    sent = [TextSize(10 + 7 * n % 31, 5 * n % 17, 1 + n % 5, 1) for n in range(60)]
    real = [round(2 * text.other + 3 * text.wide + 5 * text.messages + 40) for text in sent]
    profile = fit_profile([seen(n, 1, *pair) for n, pair in enumerate(zip(sent, real, strict=True))], "?", 60)
    assert profile is not None
    assert profile.weights == pytest.approx((2, 3, 5, 40), rel=0.05)


def test_chinese_text_keeps_its_usual_weight_where_no_request_had_any() -> None:
    profile = fit_profile([seen(n, 1, TextSize(10 + n, 0, 1, 1), 14 + n) for n in range(20)], "?", 20)
    assert profile is not None
    assert profile.weights.wide == pytest.approx(DEFAULT_WEIGHTS.wide, rel=0.2)


def test_reply_means_are_per_turn_with_enough_samples_and_pooled_otherwise() -> None:
    some = [seen(n, 1, TextSize(10, 0, 1, 1), 14, output=100) for n in range(10)]
    some += [seen(n, 2 + n % 2, TextSize(10, 0, 1, 1), 14, output=20) for n in range(10)]
    profile = fit_profile(some, "?", 10)
    assert profile is not None
    assert {turn: mean.output_tokens for turn, mean in profile.replies.items()} == {1: 100, 0: 20}


def test_low_and_high_are_two_standard_errors_and_at_least_10_percent_away() -> None:
    alike = [seen(n, 1, TextSize(10, 0, 1, 1), 14, output=100) for n in range(10)]
    profile = fit_profile(alike, "?", 10)
    assert profile is not None
    assert (profile.text_spread, profile.reply_spread) == ((0.9, 1.1), (0.9, 1.1))
    unlike = [seen(n, 1, TextSize(10, 0, 1, 1), 14, output=50 if n % 2 else 150) for n in range(10)]
    profile = fit_profile(unlike, "?", 40)
    assert profile is not None
    # Deviation over dialogues: sqrt(10 x 50² / 9) / 100 = 0.527; twice that, for the mean of 10 and of 40.
    band = 2 * 0.52705 * (1 / 10 + 1 / 40) ** 0.5
    assert profile.reply_spread == pytest.approx((1 / (1 + band), 1 + band), rel=1e-4)


def test_under_five_dialogues_the_estimate_is_as_wide_as_without_any() -> None:
    for dialogues, spreads in ((4, (DEFAULT_TEXT_SPREAD, DEFAULT_SPREAD)), (5, ((0.9, 1.1), (0.9, 1.1)))):
        alike = [seen(n % dialogues, 1 + n, TextSize(10, 0, 1, 1), 14, output=100) for n in range(20)]
        profile = fit_profile(alike, "?", 100)
        assert profile is not None
        assert (profile.text_spread, profile.reply_spread) == spreads


def test_replies_without_token_counts_give_no_profile() -> None:
    assert (
        fit_profile([ObservedTurn(dialogue=0, turn=1, sent=TextSize(1, 0, 1, 1), reply=TextSize(1, 0, 1))], "?", 1)
        is None
    )
    assert fit_profile([], "?", 1) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2000), st.integers(0, 500), st.integers(1, 9), st.integers(1, 2000)),
        min_size=1,
        max_size=30,
    )
)
def test_a_fitted_profile_reproduces_the_sum_of_its_samples(some: list[tuple[int, int, int, int]]) -> None:
    samples = [
        seen(n, 1, TextSize(other, wide, messages, 1), tokens) for n, (other, wide, messages, tokens) in enumerate(some)
    ]
    profile = fit_profile(samples, "?", len(samples))
    assert profile is not None
    assert min(profile.weights) >= 0
    assert sum(profile.tokens(one.sent) for one in samples) == pytest.approx(
        sum(one.input_tokens or 0 for one in samples)
    )


# --- properties

TEXTS = st.text(st.sampled_from("ab 今天。\n"), min_size=1, max_size=40)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4)
DIALOGUES = st.lists(TURNS.map(lambda turns: dialogue(*turns)), max_size=4)
HISTORIES: st.SearchStrategy[HistoryMode] = st.sampled_from(["live", "script", "last"])
WEIGHTS = st.tuples(*[st.floats(0, 5)] * 4).map(lambda parts: TextSize(*parts))
SPREADS = st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 9))
STEPS = st.lists(st.tuples(st.integers(1, 400), st.integers(0, 9).map(Decimal)), max_size=2, unique_by=lambda s: s[0])
RATES = st.builds(
    lambda base, steps: TokenPrice(base=Decimal(base), steps=tuple(sorted(steps))), st.integers(0, 9), STEPS
)


@st.composite
def estimators(draw: st.DrawFn) -> Estimator:
    outputs = st.builds(
        lambda n, share: ExpectedReply(text=TextSize(n * share, 0, 1), output_tokens=n),
        st.floats(0, 300),
        st.floats(0, 1),
    )
    profile = TargetProfile(
        weights=draw(WEIGHTS),
        replies=draw(st.dictionaries(st.integers(0, 4), outputs)),
        ends=draw(st.floats(0, 1)),
        text_spread=draw(SPREADS),
        reply_spread=draw(SPREADS),
        reasoning_tokens=draw(st.floats(0, 99)),
        source="?",
        learned=True,
    )
    prices = replace(PRICES, periods=(Period(input=draw(RATES), output=draw(RATES)),))
    limit = draw(st.none() | st.integers(1, 300))
    return replace(estimator(profile, draw(HISTORIES), limit), prices=prices, repeats=draw(st.integers(1, 3)))


def rows(estimate: Estimate) -> list[Figures]:
    return [
        estimate.low,
        estimate.expected,
        estimate.high,
        *([] if estimate.upper_bound is None else [estimate.upper_bound]),
    ]


def parts(of: Figures) -> tuple[float, float, float, float]:
    assert of.cost is not None
    return of.calls, of.input_tokens, of.output_tokens, float(of.cost)


@given(estimators(), DIALOGUES)
def test_low_expected_high_and_upper_bound_are_in_order(drawn: Estimator, some: list[Dialogue]) -> None:
    found = [parts(figures) for figures in rows(drawn.all_of(some))]
    for less, more in pairwise(found):
        assert all(a <= b + 1e-9 * max(1, b) for a, b in zip(less, more, strict=True))


@given(estimators(), DIALOGUES, DIALOGUES)
def test_an_estimate_is_the_sum_of_its_dialogues_and_repeats(
    drawn: Estimator, some: list[Dialogue], others: list[Dialogue]
) -> None:
    whole = [parts(figures) for figures in rows(drawn.all_of([*some, *others]))]
    halves = [parts(figures) for figures in rows(drawn.all_of(some).plus(drawn.all_of(others)))]
    once = replace(drawn, repeats=1).all_of(some)
    repeated = [parts(figures) for figures in rows(drawn.all_of(some))]
    for sums, found in ((whole, halves), ([tuple(x * drawn.repeats for x in parts(f)) for f in rows(once)], repeated)):
        assert [pytest.approx(row) for row in sums] == found
    # More dialogues never cost less.
    fewer = [parts(figures) for figures in rows(drawn.all_of(some))]
    for less, more in zip(fewer, whole, strict=False):  # without a limit on replies there is no "at most"
        assert all(a <= b + 1e-9 * max(1, b) for a, b in zip(less, more, strict=True))


@given(st.text())
def test_the_size_of_a_text_counts_every_character_once(text: str) -> None:
    size = size_of(text)
    assert size.wide + 4 * size.other == len(text)
    assert 0 <= sum(w * p for w, p in zip(DEFAULT_WEIGHTS, size, strict=True)) <= len(text) + 4


# --- the command


@dataclass
class Sim:
    provider: Provider
    url: str


@pytest.fixture(scope="module")
def shared() -> Iterator[Sim]:
    provider = Provider(script=Script.load(QUICKSTART))
    with serve_in_thread(provider) as server:
        yield Sim(provider, server.url)


@pytest.fixture
def sim(shared: Sim) -> Iterator[Sim]:
    yield shared
    shared.provider.faults = FaultScript()


Cli = Callable[..., Finished]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that runs `convbatch ARGS` in an empty folder, without keys and options of the environment."""
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def run(*args: str | Path, **env: str) -> Finished:
        done = CliRunner().invoke(app, [*map(str, args)], env={"COLUMNS": "120", **env})
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run


def config(url: str, **keys: object) -> str:
    values = {
        "protocol": "gemini",
        "base_url": url,
        "auth": "x-goog-api-key",
        "key_env": CANARY_ENV,
        "price_multiplier": None,
        **keys,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    prices = '[prices.here."sim-*"]\ncurrency = "CNY"\ninput = 2\noutput = 8\n'
    return "\n".join(["[gateways.here]", *lines, prices])


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


Row = tuple[int, int, int, str]


def table(out: str) -> dict[tuple[str, str], Row]:
    """Parse the printed table: (target, row) → calls, input tokens, output tokens, cost."""
    found: dict[tuple[str, str], Row] = {}
    target = ""
    for line in out.splitlines():
        match = re.fullmatch(r"(\S*@\S*)?\s+(low|expected|high|at most)\s+([\d,]+)\s+([\d,]+)\s+([\d,]+)\s+(.*)", line)
        if match is not None:
            target = match[1] or target
            calls, input_tokens, output_tokens = (int(match[number].replace(",", "")) for number in (3, 4, 5))
            found[target, match[2]] = (calls, input_tokens, output_tokens, match[6].strip())
    return found


def test_a_dry_run_sends_nothing_and_creates_no_folder(cli: Cli, sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    before, sent_before = listing(tmp_path), len(sim.provider.ledger.entries)
    done = cli("run", QUICKSTART, "-m", "sim-good@here", "--repeats", "2", "-n", "3", "--rpm", "10", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert (listing(tmp_path), len(sim.provider.ledger.entries)) == (before, sent_before)
    turns = int(re.search(r"3 dialogues, (\d+) turns x 1 target x 2 repeats", done.out)[1])  # pyright: ignore[reportOptionalSubscript]
    assert table(done.out)["sim-good@here", "expected"][0] == 2 * turns
    assert table(done.out)["sim-good@here", "low"][3].endswith(" CNY")
    assert "sim-good@here: at least " in done.out
    assert "rough estimate: no earlier run to learn from" in done.out


def test_a_dry_run_names_missing_keys_and_succeeds(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config("https://gateway.invalid", auth="raw", key_env="A_KEY"))
    done = cli("run", QUICKSTART, "-m", "sim-good@here", "--dry-run", A_KEY="")
    assert done.code == 0
    assert "no key yet: A_KEY is not set; a run needs it" in done.out
    assert "A_KEY" not in cli("run", QUICKSTART, "-m", "sim-good@here", "--dry-run", A_KEY="k" * 20).out


WRONG = {
    "no such file": ("nothing.jsonl",),
    "no such gateway": (QUICKSTART, "-m", "x@nowhere"),
    "a folder that is not empty": (QUICKSTART, "-o", "full"),
    "no such run": (QUICKSTART, "--reuse", "nothing"),
    "no such dialogue": (QUICKSTART, "--id", "nothing"),
    "no scripted replies": ("bare.jsonl", "--history", "script"),
    "an invalid setting": (QUICKSTART, "--temperature", "-3"),
    "an invalid key": (QUICKSTART, "-m", "gemini-2.5-flash@google"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_dry_run_refuses_invalid_input_with_the_message_of_a_run(name: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "bare.jsonl").write_text('{"turns": [{"user": "a"}, {"user": "b"}]}\n')
    args = ("run", *WRONG[name], "--no-progress")
    real, dry = (cli(*args, *more, GEMINI_API_KEY='"quoted-key-value"') for more in ((), ("--dry-run",)))
    assert (dry.code, dry.out, dry.err) == (2, "", real.err)
    assert "error: " in dry.err


@pytest.mark.parametrize("history", ["live", "script"])
def test_a_completely_reused_run_is_estimated_at_no_calls(history: str, cli: Cli, sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    scripted = tmp_path / "d.jsonl"
    scripted.write_text(json.dumps({"id": "a", "turns": [{"user": "one", "assistant": "1"}, {"user": "two"}]}) + "\n")
    args = ("run", scripted, "-m", "sim-signed@here", "--repeats", "2", "--seed", "5", "--history", history)
    assert cli(*args, "-o", "first").code == 0
    done = cli(*args, "--reuse", "first", "--dry-run")
    assert table(done.out)["sim-signed@here", "high"] == (0, 0, 0, "0.00 CNY")
    assert "4 turns reused from first, not in the figures" in done.out
    more = cli(*args[:-2], "--history", history, "--repeats", "3", "--reuse", "first", "--dry-run")
    assert table(more.out)["sim-signed@here", "high"][0] == 2  # the third repeat


def test_a_scripted_run_predicts_its_repetition_within_two_percent(cli: Cli, sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    args = ("run", QUICKSTART, "-m", "sim-good@here", "--history", "script", "--tag", "zh", "--tag", "memory")
    sent_before = len(sim.provider.ledger.entries)
    assert cli(*args, "-o", "results/earlier").code == 0
    entries = sim.provider.ledger.entries[sent_before:]
    done = cli(*args, "--dry-run")
    calls, input_tokens, output_tokens, _ = table(done.out)["sim-good@here", "expected"]
    assert calls == len(entries)
    assert input_tokens == pytest.approx(sum(entry.input_tokens or 0 for entry in entries), rel=0.02)
    assert output_tokens == pytest.approx(sum(entry.output_tokens or 0 for entry in entries), rel=0.02)
    assert f"learned from results/earlier ({len(entries)} replies, 17 of 17 dialogues)" in done.out


@pytest.mark.parametrize("history", ["live", "script"])
def test_requests_stay_within_their_token_bounds_and_the_estimated_upper_bound(
    history: str, cli: Cli, sim: Sim, tmp_path: Path
) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    args = (
        "run",
        QUICKSTART,
        "-m",
        "sim-think@here",
        "--history",
        history,
        "--max-output-tokens",
        "400",
        "--tag",
        "zh",
    )
    upper_bound = table(cli(*args, "--dry-run").out)["sim-think@here", "at most"]
    sent_before = len(sim.provider.ledger.entries)
    assert cli(*args, "-o", "out").code == 0
    entries = sim.provider.ledger.entries[sent_before:]
    assert upper_bound[0] == len(entries) > 0
    assert upper_bound[1] >= sum(entry.input_tokens or 0 for entry in entries)
    assert upper_bound[2] >= sum(entry.output_tokens or 0 for entry in entries)
    lines = (tmp_path / "out" / "journal" / "000001.jsonl").read_bytes().splitlines()
    records = [json.loads(line) for line in lines]
    sizes = {(r["index"], r["turn"]): r["most_input_tokens"] for r in records if r["kind"] == "intent"}
    usages = {(r["index"], r["turn"]): r["reply"]["usage"] for r in records if r["kind"] == "outcome"}
    assert len(sizes) == len(entries)
    assert all(sizes[place] >= usage["input_tokens"] for place, usage in usages.items())


def test_a_reused_run_provides_the_profile_of_its_nearest_target(cli: Cli, sim: Sim, tmp_path: Path) -> None:
    other = config(sim.url).replace("here", "there")
    (tmp_path / "convbatch.toml").write_text(f"{config(sim.url)}\n{other}")
    assert cli("run", QUICKSTART, "-n", "4", "-m", "sim-good@here", "-m", "sim-think@here", "-o", "first").code == 0
    args = ("run", QUICKSTART, "-n", "4", "--reuse", "first", "--dry-run", "-m")
    assert "replies of sim-think@here, 4 of 4 dialogues)" in cli(*args, "sim-think@there").out
    assert "replies of sim-good@here, another model, 4 of 4 dialogues)" in cli(*args, "sim-drift@there").out


@pytest.mark.slow
def test_the_best_evidence_is_not_the_newest_run(cli: Cli, sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    names = [json.loads(line)["id"] for line in QUICKSTART.read_text().splitlines()]
    ids = [word for name in names[:8] for word in ("--id", name)]
    args = ("run", QUICKSTART, "-m", "sim-good@here", "--no-progress")

    def play(name: str, *selected: str) -> None:
        assert cli(*args, *selected, "-o", f"results/{name}").code == 0

    def learned(*selected: str) -> str:
        out = cli(*args, *selected, "--dry-run").out
        return re.sub(r"\(\d+ repl(?:y|ies), ", "(", out[out.rindex("sim-good@here: ") :].splitlines()[0])

    play("1-two", *ids[:4])
    few = "rough estimate: only 2 dialogues to learn from; "
    assert learned() == f"sim-good@here: {few}learned from results/1-two (2 of 28 dialogues)"
    play("2-three", *ids[4:10])
    assert learned() == "sim-good@here: learned from results/2-three and results/1-two (5 of 28 dialogues)"
    play("3-six", *ids[4:])
    play("4-five", *ids[:10])
    play("5-one", *ids[:2])
    assert learned(*ids[:10]) == "sim-good@here: learned from results/4-five (5 of 5 dialogues)"
    assert learned() == "sim-good@here: learned from results/3-six (6 of 28 dialogues)"
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("".join(f'{{"id": "n{n}", "turns": [{{"user": "hi"}}]}}\n' for n in range(6)))
    other, best = "rough estimate: from other dialogues; ", "learned from results/3-six (0 of 6 dialogues)"
    args = ("run", mixed, *args[2:])
    assert learned() == f"sim-good@here: {other}{best}"
    play("6-known", "--limit", "1")
    few = "rough estimate: only 1 dialogue to learn from; "
    assert learned() == f"sim-good@here: {few}learned from results/6-known (1 of 6 dialogues)"


def test_totals_are_per_currency_and_a_missing_price_has_a_hint(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(
        '[gateways.a]\nprotocol = "gemini"\nbase_url = "https://a.invalid"\nauth = "none"\n'
        '[gateways.b]\nprotocol = "gemini"\nbase_url = "https://b.invalid"\nauth = "none"\n'
        '[prices.a."x"]\ncurrency = "EUR"\ninput = 2\noutput = 8\n'
        '[prices.b."x"]\ncurrency = "CNY"\ninput = 2\noutput = 8\n'
    )
    done = cli("run", QUICKSTART, "-m", "x@a", "-m", "x@b", "-m", "y@b", "--max-output-tokens", "99", "--dry-run")
    assert done.code == 0
    assert "total billed in EUR: low " in done.out
    assert "total billed in CNY: low " in done.out
    assert "1 of 3 targets without a price: not in these sums" in done.out
    assert "y@b: no known price; add one to the config, above its tables: prices.b.y = { currency" in done.out
    assert table(done.out)["y@b", "at most"][3] == "–"


def test_the_sum_is_in_the_currency_that_is_wanted(cli: Cli, tmp_path: Path) -> None:
    prices = "[prices.a.x]\ninput = 1\noutput = 2\n[prices.b.x]\ninput = 7\noutput = 14\n"
    gateways = "".join(
        f'[gateways.{name}]\nprotocol = "gemini"\nbase_url = "https://{name}.test"\nauth = "none"\n'
        f'currency = "{currency}"\n'
        for name, currency in (("a", "USD"), ("b", "CNY"))
    )
    (tmp_path / "convbatch.toml").write_text(f'{gateways}{prices}[rates]\n"USD/CNY" = 7\n')
    args = ("run", QUICKSTART, "-m", "x@a", "--dry-run", "--json", "--currency")
    one = json.loads(cli(*args, "CNY").out)["totals"]
    both = json.loads(cli(*args, "CNY", "-m", "x@b").out)["totals"]
    assert [total["currency"] for total in one] == ["USD", "CNY"]
    assert [total["currency"] for total in both] == ["USD", "CNY", "CNY"]
    expected = [exact(total["expected"]["cost"]) for total in (*one, *both)]
    assert expected[1] == 7 * expected[0]
    assert expected[4] == 7 * expected[2] + expected[3] == 2 * expected[3]
    assert [total["currency"] for total in json.loads(cli(*args, "USD").out)["totals"]] == ["USD"]
    for more, hint in ((("EUR",), '[rates] "USD/EUR" = ...'), (("RMB",), "did you mean CNY?")):
        done = cli(*args, *more)
        assert (done.code, hint in done.err) == (2, True)
    done = cli("run", QUICKSTART, "-m", "x@a", "--currency", "CNY")
    assert (done.code, "convbatch report RUN --currency CNY" in done.err) == (2, True)


def test_a_dry_run_reports_a_budget_that_is_too_small(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config("https://gateway.invalid"))
    args = ("run", QUICKSTART, "-m", "sim-good@here", "--max-output-tokens", "99", "--dry-run", "--max-cost")
    assert "the budget of 0.001 CNY is too small: " in cli(*args, "0.001").out
    assert "the budget of" not in cli(*args, "1000CNY").out.replace("cost cap 1,000.00 CNY", "")
    refused = cli(*args, "1USD")
    assert (refused.code, refused.out) == (2, "")
    assert "--max-cost is in USD, and sim-good@here bills CNY" in refused.err


def test_a_run_with_a_budget_below_the_high_estimate_warns(cli: Cli, sim: Sim, tmp_path: Path) -> None:
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    args = ("run", QUICKSTART, "-n", "1", "-m", "sim-good@here", "--max-output-tokens", "99", "--no-progress")
    warned = cli(*args, "--max-cost", "0.0005CNY", "-o", "a").err
    assert re.search(r"note: the budget of 0\.0005 CNY (is|may be) too small: .*0\.\d+ CNY", warned), warned
    assert "the budget of" not in cli(*args, "--max-cost", "1000CNY", "-o", "b").err


def test_rate_limits_give_the_shortest_possible_duration() -> None:
    figures = Figures(calls=600, input_tokens=50_000, output_tokens=10_000)
    # 60 a minute, derated to 60 / 61 s: 599 more after the first.
    assert shortest(Limits(rpm=60), figures) == f"at least {599 * 61 / 60 / 60:.0f} min, by the request rate"
    assert shortest(Limits(tpm=10_000), figures) == "at least 4 min, by tpm 10,000"
    assert shortest(Limits(tpm=10_000, tpm_counts="input+max_output"), figures) == "at least 5 min, by tpm 10,000"
    assert shortest(Limits(rpd=250), figures) == "at least 3 quota days, by rpd 250"
    assert shortest(Limits(), figures) is None
