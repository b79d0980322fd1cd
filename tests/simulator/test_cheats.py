"""The action `cheat`, over real HTTP: with equal seeds a cheating server differs from an honest one in one way only."""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from convbatch.dataset.selection import load_dialogues
from convbatch.dialogue import Dialogue, Message, Settings, text_part
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.reading import read_answer
from convbatch.protocols.wire import Ask, Endpoint
from convbatch.reply import Reply
from convbatch.simulator import FaultScript, Provider, Request, Script, serve_in_thread
from convbatch.simulator.replies import Actor, ParsedRequest, UnknownModel, count_tokens, history_sha
from convbatch.simulator.sampling import CHARACTERS
from tests.support.tables import each

DATASETS = [Path(__file__).parents[2] / "datasets" / name for name in ("audit.jsonl", "audit.zh.jsonl")]
PROBES = {dialogue.id: dialogue for dialogue in load_dialogues(DATASETS)}
SCRIPT = Script.load(*DATASETS)
ASKED = [
    "border-prime-25-en", "border-rfc-hkdf-en", "border-height-fuji-en", "canary-capital-letters-en",
    "canary-code-at-the-end-en", "fact-locker-number-en", "fact-long-history-en", "limit-count-up-en",
    "temperature-motto-en", "temperature-moon-cafe-en", "temperature-snow-dialogue-en",
]  # fmt: skip
REPEATS = 3


class Seen(NamedTuple):
    """What a client sees of a reply."""

    text: str | None
    name: str | None
    input: int | None
    output: int | None
    reasoning: int | None
    finish: str


Place = tuple[str, int]
"""A probe and the number of a repeat, from 1."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What two servers answered to the same requests."""

    honest: Mapping[Place, Seen]
    cheating: Mapping[Place, Seen]

    def changed(self, place: Place) -> set[str]:
        """Return the names of the fields that differ."""
        one, other = self.honest[place], self.cheating[place]
        return {name for name in Seen._fields if getattr(one, name) != getattr(other, name)}

    def probes_changed(self) -> set[str]:
        return {probe for probe, repeat in self.honest if self.changed((probe, repeat))}


def build_ask(dialogue: Dialogue, model: str) -> Ask:
    """Return the request of the last turn, after the scripted history."""
    messages: list[Message] = []
    for turn in dialogue.turns:
        messages.append(Message(role="user", parts=(text_part(turn.user_text),)))
        messages.append(Message(role="assistant", parts=(text_part(turn.assistant or ""),)))
    return Ask(model=model, messages=tuple(messages[:-1]), system=dialogue.system, settings=dialogue.settings)


class Client:
    """A client of one server, over one connection."""

    def __init__(self, url: str, wire: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._wire = wire
        self._endpoint = Endpoint(base_url=url + ("/v1" if wire in ("openai", "responses") else ""))

    def see(self, ask: Ask) -> Seen:
        asked = PROTOCOLS[self._wire].build_request(ask, self._endpoint)
        body = json.dumps(asked.json).encode()
        self._connection.request(asked.method, urlsplit(asked.url).path, body, dict(asked.headers))
        response = self._connection.getresponse()
        content = response.read()
        reply = read_answer(PROTOCOLS[self._wire], response.status, dict(response.headers), content).outcome
        assert isinstance(reply, Reply), content
        usage = reply.usage
        return Seen(reply.text, reply.model_version, usage.input_tokens, usage.output_tokens, usage.reasoning_tokens,
                    reply.finish_reason)  # fmt: skip

    def close(self) -> None:
        self._connection.close()


@contextlib.contextmanager
def serving(wire: str, *rules: Mapping[str, Any], seed: int = 0) -> Generator[tuple[Client, Provider]]:
    provider = Provider(seed=seed, script=SCRIPT, faults=FaultScript.of(rules))
    with serve_in_thread(provider) as server:
        client = Client(server.url, wire)
        yield client, provider
        client.close()


def seen_by(
    wire: str, *rules: Mapping[str, Any], model: str = "sim-large", seed: int = 0, probes: Sequence[str] = ASKED
) -> dict[Place, Seen]:
    with serving(wire, *rules, seed=seed) as (client, _):
        return {
            (probe, repeat): client.see(build_ask(PROBES[probe], model))
            for repeat, probe in itertools.product(range(1, REPEATS + 1), probes)
        }


def only(field: str, change: Callable[[Any], Any]) -> Callable[[Pair], None]:
    """Expect that every reply differs in one field, by this change."""

    def check(pair: Pair) -> None:
        changed = {place: seen._replace(**{field: change(getattr(seen, field))}) for place, seen in pair.honest.items()}
        assert pair.cheating == changed
        assert any(pair.changed(place) for place in changed)

    return check


def expect_length_hidden(pair: Pair) -> None:
    assert pair.probes_changed() == {"limit-count-up-en"}
    assert {pair.cheating["limit-count-up-en", repeat].finish for repeat in range(1, REPEATS + 1)} == {"stop"}
    assert pair.changed(("limit-count-up-en", 1)) == {"finish"}


def expect_cut_replies(pair: Pair) -> None:
    assert pair.probes_changed() == {probe for (probe, _), seen in pair.honest.items() if (seen.output or 0) > 20}
    cut = pair.cheating["limit-count-up-en", 1]
    assert (cut.output, cut.finish) == (20, "length")


def expect_other_model(pair: Pair) -> None:
    assert all(pair.changed(place) <= {"text", "output"} for place in pair.honest)
    changed = pair.probes_changed()
    assert {"temperature-motto-en", "temperature-moon-cafe-en"} <= changed
    assert any(probe.startswith("border") for probe in changed)
    assert not any(probe.startswith("limit") for probe in changed)


def expect_slightly_other_words(pair: Pair) -> None:
    assert all(pair.changed(place) <= {"text", "output"} for place in pair.honest)
    assert pair.probes_changed()
    assert not any(probe.startswith(("canary", "fact", "limit")) for probe in pair.probes_changed())


def expect_equal_repeats(pair: Pair) -> None:
    for probe in ASKED:
        first = pair.honest[probe, 1]
        assert [pair.cheating[probe, repeat] for repeat in range(1, REPEATS + 1)] == [first] * REPEATS
    assert pair.probes_changed()


def expect_no_sampling(pair: Pair) -> None:
    assert pair.changed(("temperature-motto-en", 1)) == set()  # asked at temperature 0 anyway
    for probe in ("temperature-moon-cafe-en", "temperature-snow-dialogue-en"):
        assert len({pair.cheating[probe, repeat].text for repeat in range(1, REPEATS + 1)}) == 1
        assert len({pair.honest[probe, repeat].text for repeat in range(1, REPEATS + 1)}) > 1
    assert all(pair.changed(place) <= {"text", "output"} for place in pair.honest)


def expect_lost(*lost: str) -> Callable[[Pair], None]:
    def check(pair: Pair) -> None:
        assert pair.probes_changed() == set(lost)
        assert all(pair.changed(place) <= {"text", "output"} for place in pair.honest)
        for probe in lost:
            assert pair.honest[probe, 1].text == PROBES[probe].turns[-1].assistant

    return check


CHEATS: dict[str, tuple[dict[str, Any], Callable[[Pair], None]]] = {
    "another model": ({"model": "sim-small"}, expect_other_model),
    "quantised": ({"quantised": True}, expect_slightly_other_words),
    "replayed": ({"replay": True}, expect_equal_repeats),
    "temperature ignored": ({"temperature": 0}, expect_no_sampling),
    "system dropped": ({"drop_system": True}, expect_lost("canary-capital-letters-en", "canary-code-at-the-end-en")),
    "history shortened": ({"keep_turns": 2}, expect_lost("fact-locker-number-en", "fact-long-history-en")),
    "half the history": ({"keep_turns": 6}, expect_lost("fact-long-history-en")),
    "input by a factor": ({"input_times": 1.1}, only("input", lambda count: round(count * 1.1))),
    "input by a prompt": ({"input_plus": 120}, only("input", lambda count: count + 120)),
    "output by 8 %": ({"output_times": 1.08}, only("output", lambda count: round(count * 1.08))),
    "output by 30 %": ({"output_times": 1.3}, only("output", lambda count: round(count * 1.3))),
    "length hidden": ({"hide_length": True}, expect_length_hidden),
    "replies cut": ({"most_output": 20}, expect_cut_replies),
    "another name": ({"name": "sim-small"}, only("name", lambda name: "sim-small")),
}


@functools.cache
def honest(wire: str) -> Mapping[Place, Seen]:
    return seen_by(wire)


TWO_WIRES = [(cheat, (*PROTOCOLS, *PROTOCOLS)[at % 4 + more]) for at, cheat in enumerate(CHEATS) for more in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("cheat", "wire"), TWO_WIRES)
def test_each_cheat_shows_in_its_way_and_in_no_other(cheat: str, wire: str) -> None:
    options, expect = CHEATS[cheat]

    cheating = seen_by(wire, {"action": "cheat", **options})

    expect(Pair(honest=honest(wire), cheating=cheating))


@each("cheat", ["another model", "replayed", "history shortened"])
def test_cheats_show_over_http(cheat: str) -> None:
    options, expect = CHEATS[cheat]

    cheating = seen_by("openai", {"action": "cheat", **options})

    expect(Pair(honest=honest("openai"), cheating=cheating))


SLOW_WIRES = [pytest.param(wire, marks=() if wire == "openai" else pytest.mark.slow) for wire in PROTOCOLS]


@pytest.mark.parametrize("wire", SLOW_WIRES)
def test_honest_servers_differ_by_sampling_only(wire: str) -> None:
    pair = Pair(honest=honest(wire), cheating=seen_by(wire, seed=1))

    assert {"temperature-moon-cafe-en", "temperature-snow-dialogue-en"} <= pair.probes_changed()
    assert all(pair.changed(place) <= {"text", "output"} for place in pair.honest)
    assert pair.changed(("temperature-motto-en", 1)) == set()
    assert len(set(pair.honest.values())) > len(ASKED)


def test_reasoning_counts_can_be_inflated_alone() -> None:
    probes, options = ("border-prime-25-en", "fact-two-allergies-en"), {"action": "cheat", "reasoning_times": 1.5}
    pair = Pair(
        honest=seen_by("openai", model="sim-reason", probes=probes),
        cheating=seen_by("openai", options, model="sim-reason", probes=probes),
    )

    assert {frozenset(pair.changed(place)) for place in pair.honest} == {frozenset({"output", "reasoning"})}
    assert len({seen.reasoning for seen in pair.honest.values()}) > len(probes)


def test_the_ledger_keeps_the_true_counts_and_names_the_cheat() -> None:
    rule = {"action": "cheat", "input_times": 2, "output_times": 3, "name": "sim-small"}
    with serving("gemini", rule) as (client, provider):
        seen = client.see(build_ask(PROBES["fact-locker-number-en"], "sim-large"))
        entry = provider.ledger.entries[-1]

    assert (seen.input, seen.output) == ((entry.input_tokens or 0) * 2, (entry.output_tokens or 0) * 3)
    assert (entry.model, entry.fault) == ("sim-large", "cheat")


def test_a_share_of_the_replies_comes_from_another_model() -> None:
    rule = {"match": {"probability": 0.1}, "action": "cheat", "model": "sim-small"}
    provider = Provider(script=SCRIPT, faults=FaultScript.of([rule]))
    asks = [(dialogue, repeat) for dialogue in list(PROBES.values())[:72] for repeat in range(3)]

    for dialogue, _ in asks:
        ask_in_process(provider, dialogue)

    share = sum(entry.fault == "cheat" for entry in provider.ledger.entries) / len(asks)
    assert 0.05 < share < 0.15


def ask_in_process(provider: Provider, dialogue: Dialogue, model: str = "sim-large") -> str:
    asked = PROTOCOLS["openai"].build_request(build_ask(dialogue, model), Endpoint(base_url="http://any/v1"))
    answer = provider.handle(Request.of(asked.method, asked.url, {}, json.dumps(asked.json).encode()), 0.0)
    answer.delivered(0.0)
    return json.loads(answer.content)["choices"][0]["message"]["content"]


@each(("kind", "options"), [("canary", {"drop_system": True}), ("fact", {"keep_turns": 1})])
def test_what_a_model_does_not_see_it_cannot_say(kind: str, options: dict[str, Any]) -> None:
    probes = [replace(one, settings=Settings(temperature=0)) for one in PROBES.values() if kind in one.tags]
    honest = Provider(script=SCRIPT)
    cheating = Provider(script=SCRIPT, faults=FaultScript.of([{"action": "cheat", **options}]))

    assert len(probes) >= 28
    assert all(ask_in_process(honest, one) == one.turns[-1].assistant for one in probes)
    assert all(ask_in_process(cheating, one) != one.turns[-1].assistant for one in probes)


# --- the models ------------------------------------------------------------------------------------------------------


def recalled(model: str, dialogue: Dialogue, **fields: Any) -> str:
    text = dialogue.turns[0].user_text
    parsed = replace(ParsedRequest(model=model, messages=(("user", text),)), **fields)
    return Actor(script=SCRIPT).answer(parsed, history_sha("", parsed.messages)).text


BORDER = [dialogue for dialogue in PROBES.values() if "border" in dialogue.tags]


@each("model", CHARACTERS)
def test_a_model_knows_the_same_at_every_server(model: str) -> None:
    for dialogue in BORDER[::6]:
        servers = [Provider(seed=seed, script=SCRIPT) for seed in (1, 2)]
        cold = replace(dialogue, settings=Settings(temperature=0))
        assert ask_in_process(servers[0], cold, model) == ask_in_process(servers[1], cold, model)


@pytest.mark.slow
def test_models_know_different_shares_of_the_border_and_a_quantised_copy_a_little_less() -> None:
    def share(model: str, **fields: Any) -> float:
        right = [
            recalled(model, dialogue, take=take, **fields).replace(",", "") == dialogue.turns[0].assistant
            for dialogue, take in itertools.product(BORDER[::2], range(1, 8))
        ]
        return sum(right) / len(right)

    large, small, reason = share("sim-large"), share("sim-small"), share("sim-reason")
    assert 0.2 < small < large - 0.3 < large < reason < 0.95
    assert large - 0.1 < share("sim-large", quantised=True) < large


def test_wrong_answers_are_spread_and_have_the_form_of_the_right_one() -> None:
    dialogue = PROBES["border-census-wyoming-2010-en"]
    texts = {recalled("sim-small", dialogue, take=take) for take in range(1, 120)}

    assert len(texts) > 4
    assert all(text.replace(",", "").isdecimal() and 5 <= len(text.replace(",", "")) <= 6 for text in texts)


def test_a_request_with_a_seed_gets_the_same_reply_at_every_server_and_time() -> None:
    dialogue = PROBES["temperature-island-a-en"]
    seeded = [replace(dialogue, settings=Settings(temperature=1, seed=seed)) for seed in (7, 7, 8, 9)]
    texts = [ask_in_process(Provider(seed=at, script=SCRIPT), asked) for at, asked in enumerate(seeded)]

    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


@each("prompt", ["Write one sentence about rain.", "用一句话写雨。"])
def test_other_dialogues_are_answered_in_their_language_with_varying_endings(prompt: str) -> None:
    turn = {"user": prompt, "assistant": "It rains." if prompt.isascii() else "下雨了。"}
    provider = Provider(script=Script.of([{"turns": [turn]}]))
    asked = replace(PROBES["border-prime-25-en"], turns=(replace(BORDER[0].turns[0], user=(text_part(prompt),)),))
    texts = {ask_in_process(provider, asked) for _ in range(30)}

    assert len(texts) > 2
    assert all(text.startswith(turn["assistant"]) and text.isascii() == prompt.isascii() for text in texts)
    assert all(count_tokens(text) < 30 for text in texts)


def test_a_rule_with_an_unknown_model_stops_the_provider() -> None:
    faults = FaultScript.of([{"action": "cheat", "model": "sim-huge"}])

    with pytest.raises(UnknownModel, match="rule 1: option 'model': no simulated model 'sim-huge'; known: sim-good"):
        Provider(faults=faults)
