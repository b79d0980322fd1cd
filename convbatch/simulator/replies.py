"""The replies of the simulated models. Pure: the same for the same (seed, model, history, take).

Decides the text, the finish and the token counts of a reply, and reads scripted replies from a canonical dataset. It
knows no wire, socket or clock; `wire.py` and the modules of the wires encode a reply for a client.
"""

from __future__ import annotations

import base64
import bisect
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from convbatch.simulator import media, schemas, tools
from convbatch.simulator.draws import digest, draw
from convbatch.simulator.probes import ProbeBook
from convbatch.simulator.sampling import CHARACTERS, Voice, lost_fact

Finish = Literal["stop", "length", "prompt_blocked", "output_blocked", "nothing", "malformed", "unknown", "paused"]

PER_MESSAGE_TOKENS = 4
PROMPT_TRIGGERS = ("bomb", "炸弹")
"""`sim-safety` blocks a prompt with one of these words."""
OUTPUT_TRIGGERS = ("insult", "辱骂")
"""`sim-safety` blocks its output to a prompt with one of these words."""
SIGNED_MARK = "[signed] "
"""Prefix of every reply of `sim-signed`: it distinguishes a replay without its signature from a scripted turn."""

_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_DIGITS = re.compile("[0-9]{1,9}")


class UnknownModel(ValueError):
    """A name for a simulated model that does not exist."""


class ScriptError(ValueError):
    """A dataset line that is not a canonical dialogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedTurn:
    """What `sim-signed` checks of a model turn in a history."""

    index: int
    """Index in `ParsedRequest.messages`."""
    text: str
    signature: str | None
    in_place: bool
    """Whether the signature is on the part on which it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRequest:
    """What reaches the model, the same for all wires."""

    model: str
    system: str = ""
    messages: tuple[tuple[str, str], ...]
    """(role, text), role `user`, `model` or `tool` (the results of one step); consecutive model messages are merged."""
    replayed: tuple[ReplayedTurn, ...] = ()
    max_output_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    thinking: bool = True
    show_thoughts: bool = True
    schema: Mapping[str, Any] | None = None
    """What a reply must fit, as JSON; an empty one asks for JSON of any form."""
    draws: Literal["", "counted", "apart"] = ""
    """Whether a model can draw, and whether its pictures are counted as output."""
    is_bare: bool = False
    """Whether the reply is a text of the schema without its quotes."""

    declared: tuple[Mapping[str, Any], ...] = ()
    """Tools: name and `parameters`."""
    pauses: int | None = None
    """How often the model has paused in this turn; None: the wire has no paused turns."""
    take: int = 1
    """How often this history was sent to this model, this time included; set by the provider."""
    quantised: bool = False
    """Whether a quantised copy of the model answers; set by a cheating provider."""

    @property
    def answered(self) -> int:
        """The steps of the current turn whose results are there."""
        roles = [role for role, _ in self.messages]
        return roles[::-1][: roles[::-1].index("user")].count("tool") if "user" in roles else roles.count("tool")

    @property
    def user_texts(self) -> tuple[str, ...]:
        """The user messages so far, in order."""
        return tuple(text for role, text in self.messages if role == "user")

    @property
    def input_tokens(self) -> int:
        """Tokens of the whole prompt, by `count_tokens`."""
        system = count_tokens(self.system) + PER_MESSAGE_TOKENS if self.system else 0
        return system + sum(count_tokens(text) + PER_MESSAGE_TOKENS for _, text in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReply:
    """One reply with its true token counts, before any fault is applied."""

    text: str
    finish: Finish = "stop"
    thought: str | None = None
    signature: str | None = None
    input_tokens: int
    visible_tokens: int
    reasoning_tokens: int | None = None
    reply_id: str
    calls: tuple[tools.Call, ...] = ()
    picture: bytes | None = None
    picture_tokens: int = 0

    @property
    def output_tokens(self) -> int:
        """All generated tokens: visible, reasoning and of a picture."""
        return self.visible_tokens + (self.reasoning_tokens or 0) + self.picture_tokens


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: one per CJK character, one per (started) four other characters."""
    if text.isascii():
        return -(-len(text) // 4)
    wide = len(_WIDE.findall(text))
    return wide - (wide - len(text)) // 4


def cut_to_tokens(text: str, limit: int) -> str:
    """Return the longest prefix of `text` with at most `limit` tokens."""
    length = bisect.bisect_right(range(len(text) + 1), limit, key=lambda n: count_tokens(text[:n])) - 1
    return text[: max(0, length)]


def reword(reply: SimulatedReply, asked: int) -> SimulatedReply:
    """Vary a reply for the `asked`-th request with the same history, from 1: other text, other id."""
    if asked == 1 or not reply.text:
        return reply
    text = f"{reply.text} ({asked})"
    return replace(reply, text=text, visible_tokens=count_tokens(text), reply_id=f"{reply.reply_id[:-2]}{asked:02d}")


def history_sha(system: str, messages: Iterable[tuple[str, str]]) -> str:
    """Return 32 hex digits that identify the system text and all messages with their roles."""
    plain = orjson.dumps([system, [list(message) for message in messages]])
    return hashlib.sha256(plain).hexdigest()[:32]


class Script:
    """Scripted replies, looked up by the system text and the user messages so far.

    The model's replies are no part of the key, so a live history finds its next reply whatever the model answered
    before. Of two dialogues with the same beginning, the first in the file is used. Memory: one dict entry per scripted
    turn, about 150 bytes plus the text of the reply.
    """

    def __init__(self) -> None:
        self._replies: dict[bytes, str] = {}
        self._steps: dict[bytes, tuple[tools.Step, ...]] = {}
        self.probes = ProbeBook()

    def __len__(self) -> int:
        return len(self._replies)

    @classmethod
    def load(cls, *paths: str | Path) -> Script:
        """Read canonical datasets, plain or `.gz`.

        Raises:
            ScriptError: A line is not a canonical dialogue; the message has file and line.
            OSError: A file cannot be read.
        """
        script = cls()
        for path in map(Path, paths):
            for number, line in _lines(path):
                try:
                    script.learn(orjson.loads(line))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    message = f"{path}:{number}: not a dialogue in the canonical form: {error!r}"
                    hint = "the simulator reads canonical datasets only; run `convbatch convert IN OUT` first"
                    raise ScriptError(f"{message}\n  found: {line[:80]!r}\n  hint: {hint}") from error
        return script

    @classmethod
    def of(cls, dialogues: Iterable[Mapping[str, Any]]) -> Script:
        """Build a script from dialogues as plain objects."""
        script = cls()
        for dialogue in dialogues:
            script.learn(dialogue)
        return script

    def learn(self, dialogue: Mapping[str, Any]) -> None:
        """Add one canonical dialogue: the replies and the calls of tools that it has."""
        self.probes.learn(dialogue, [_user_text(turn["user"]) for turn in dialogue["turns"]])
        link = _link(b"", dialogue.get("system") or "")
        says_calls = any(turn.get("tool_calls") for turn in dialogue["turns"])
        for number, turn in enumerate(dialogue["turns"]):
            link = _link(link, _user_text(turn["user"]))
            if isinstance(reply := turn.get("assistant"), str):
                self._replies.setdefault(link, reply)
            wanted = () if says_calls else tools.wanted_calls(dialogue, number)
            if steps := tools.scripted_steps(turn) or ((wanted,) if wanted else ()):
                self._steps.setdefault(link, steps)

    def reply_to(self, system: str, user_texts: Iterable[str]) -> str | None:
        """Return the scripted reply to the last of `user_texts`, None without one."""
        return self._replies.get(_link_of(system, user_texts))

    def steps_of(self, system: str, user_texts: Iterable[str]) -> tuple[tools.Step, ...]:
        """Return the scripted calls of the turn of the last of `user_texts`, step by step."""
        return self._steps.get(_link_of(system, user_texts), ()) if self._steps else ()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            stripped = line.removeprefix(b"\xef\xbb\xbf").strip()
            if stripped:
                yield number, stripped


def _link(before: bytes, text: str) -> bytes:
    return hashlib.blake2b(before + text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _link_of(system: str, user_texts: Iterable[str]) -> bytes:
    link = _link(b"", system)
    for text in user_texts:
        link = _link(link, media.without_marks(text))
    return link


def _user_text(user: str | list[dict[str, Any]]) -> str:
    return user if isinstance(user, str) else "".join(cast("str", part.get("text", "")) for part in user)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A reply before stop sequences and limits are applied."""

    text: str
    finish: Finish = "stop"
    thought: str | None = None
    reasoning_tokens: int | None = None
    calls: tools.Step = ()
    picture: bytes | None = None


class Actor:
    """The simulated models."""

    def __init__(
        self, *, seed: int = 0, script: Script | None = None, aliases: Mapping[str, str] | None = None
    ) -> None:
        """Set up the models.

        Args:
            seed: Selects the dialogues that `sim-drift` spoils, and the reply ids.
            script: Scripted replies; without them every reply quotes the history.
            aliases: Additional model names, each with its simulated model.

        Raises:
            UnknownModel: An alias for an unknown model.
        """
        self.seed = seed
        self._script = script or Script()
        self._aliases = dict(aliases or {})
        for name, player in self._aliases.items():
            if player not in _MODELS:
                raise UnknownModel(f"{name!r}: no simulated model {player!r}; known: {', '.join(_MODELS)}")

    @property
    def models(self) -> tuple[str, ...]:
        """All model names, aliases included."""
        return (*_MODELS, *self._aliases)

    def base_model(self, model: str) -> str | None:
        """Return the simulated model of a name, None for an unknown name."""
        return model if model in _MODELS else self._aliases.get(model)

    def answer(self, parsed: ParsedRequest, sha: str) -> SimulatedReply:
        """Return the reply to a history with the `history_sha` `sha`; the model must be known."""
        player = self.base_model(parsed.model) or ""
        draft = _MODELS[player](self, parsed, sha)
        if player in _CALLERS and draft.finish in ("stop", "length"):
            draft = self._drawn(self._acted(draft, parsed, sha), parsed, sha)
        draft = _within_limits(_in_form(draft, parsed), parsed)
        reply = SimulatedReply(
            text=draft.text,
            finish=draft.finish,
            thought=draft.thought,
            input_tokens=parsed.input_tokens,
            visible_tokens=count_tokens(draft.text) + sum(count_tokens(call.name + call.text) for call in draft.calls),
            reasoning_tokens=draft.reasoning_tokens,
            signature=self._sign(parsed.model, sha, draft.text) if player == "sim-signed" and not draft.calls else None,
            calls=draft.calls,
            picture=draft.picture,
            picture_tokens=media.PICTURE_TOKENS if draft.picture and parsed.draws == "counted" else 0,
            reply_id=self._reply_id(parsed, sha),
        )
        return _as_in_the_seed(reply) if player == "sim-seed" else reply

    def samples(self, model: str) -> bool:
        """Return whether a model's replies differ each time the same history is sent."""
        return self.base_model(model) in CHARACTERS

    def _reply_id(self, parsed: ParsedRequest, sha: str) -> str:
        take = (parsed.take,) if self.samples(parsed.model) else ()
        return base64.urlsafe_b64encode(digest(self.seed, parsed.model, sha, *take) * 2).decode()[:20]

    def _acted(self, draft: _Draft, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return what the model does in place of its reply: pause, call tools, or say what they returned."""
        texts = parsed.user_texts
        ordered = tools.orders(texts[-1] if texts else "", {str(tool["name"]) for tool in parsed.declared})
        may_pause = parsed.pauses is not None and self.base_model(parsed.model) != "sim-signed"
        if may_pause and (parsed.pauses or 0) < ordered.pauses:
            return replace(draft, text="Searching…", finish="paused")
        if parsed.declared:
            seal = f"{digest(self.seed, parsed.model, sha).hex()}_"
            scripted = self._script.steps_of(parsed.system, texts)
            if step := tools.next_step(scripted, ordered, parsed.answered, seal):
                return replace(draft, text="Let me see." if ordered.is_loud else "", finish="stop", calls=step)
        if parsed.answered and self._script.reply_to(parsed.system, texts) is None:
            return replace(draft, text=f"{draft.text} {tools.quote_results(parsed.messages[-1][1])}")
        return draft

    def _drawn(self, draft: _Draft, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the reply with a picture, where the user asks for one and the model can draw."""
        order = media.order((parsed.user_texts or ("",))[-1])
        if not (order.is_given and parsed.draws and draft.finish == "stop" and not draft.calls):
            return draft
        return replace(draft, text="" if order.is_silent else draft.text, picture=media.drawing(sha.encode()))

    def broken_signature(self, parsed: ParsedRequest) -> str | None:
        """Return what is wrong with the signed turns sent to `sim-signed`; None if they came back unchanged."""
        if self.base_model(parsed.model) != "sim-signed":
            return None
        for turn in parsed.replayed:
            if turn.signature is None:
                if turn.text.startswith(SIGNED_MARK):
                    return f"Model turn is missing its thought_signature, position {turn.index + 1}."
                continue
            sha = history_sha(parsed.system, parsed.messages[: turn.index])
            if not turn.in_place or turn.signature != self._sign(parsed.model, sha, turn.text):
                return f"Corrupted thought signature, position {turn.index + 1}."
        return None

    def _sign(self, model: str, sha: str, text: str) -> str:
        return base64.b64encode(digest(self.seed, model, sha, text) * 3).decode()

    def good(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the scripted reply, else one that quotes the history."""
        texts = parsed.user_texts
        scripted = self._script.reply_to(parsed.system, texts)
        return _Draft(_quote(texts, sha) if scripted is None else scripted)

    def drift(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the reply of `good`, spoiled in about one dialogue of three."""
        draft = self.good(parsed, sha)
        first = parsed.user_texts[:1]
        if draw("drift", self.seed, parsed.model, *first) >= 1 / 3:
            return draft
        kinds = tuple(_SPOILS)
        return _SPOILS[kinds[int(draw("kind", self.seed, parsed.model, *first) * len(kinds))]](draft.text)

    def think(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the good reply with reasoning; the count is of the thoughts, not of the summary shown."""
        good = self.good(parsed, sha)
        if not parsed.thinking:
            return good
        last = (parsed.user_texts or ("",))[-1]
        thought = f"**Reading** {len(parsed.messages)} messages. The last one says: {last[:60]}"
        shown = thought if parsed.show_thoughts else None
        return _Draft(good.text, thought=shown, reasoning_tokens=3 * count_tokens(thought) + 7)

    def echo(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the last user message."""
        del sha
        return _Draft((parsed.user_texts or ("",))[-1])

    def safety(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the good reply, or a block for trigger words."""
        last = (parsed.user_texts or ("",))[-1].lower()
        if any(word in last for word in PROMPT_TRIGGERS):
            return _Draft("", "prompt_blocked")
        if any(word in last for word in OUTPUT_TRIGGERS):
            return _Draft("", "output_blocked")
        return self.good(parsed, sha)

    def empty(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return an empty text, as real models do intermittently."""
        del parsed, sha
        return _Draft("")

    def seed_reply(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return the reply of DMXAPI's documentation page to any prompt."""
        del parsed, sha
        return _Draft("明天是2025年12月27日。", reasoning_tokens=178)

    def judge(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Judge a reply by a rubric, as a model that obeys any instruction outside the quoted data.

        The quoted words of the rubric must be in the reply or the calls before it; without quotes the verdict is
        random. Words outside the one JSON object of the message are obeyed as instructions.
        """
        message = (parsed.user_texts or ("",))[-1]
        asked, outside = _question_to_judge(parsed)
        if asked is not None and "A" in asked and "B" in asked:
            return _Draft(self._choice(asked, parsed))
        if asked is None or _ORDER.search(outside):
            named = _ID.search(message)
            steered = None if named is None else {"id": named[1]}
            return _Draft(_opinion(steered, outside[:60], passes="pass" in outside.lower()))
        said = f"{asked.get('reply', _all_said(asked))}\n{_all_done(asked)}"
        wanted = ["".join(found) for found in _QUOTED.findall(str(asked.get("rubric", "")))]
        missing = [words for words in wanted if words not in said]
        if not wanted:
            lots = draw("judge", self.seed, parsed.model, sha)
            return _Draft(_opinion(asked, f"it is worth {lots:.2f}", passes=lots >= 0.5, score=round(lots, 2)))
        reason = f"it lacks {', '.join(missing)}" if missing else "it has all that was asked"
        score = round(1 - len(missing) / len(wanted), 2)
        return _Draft(_opinion(asked, reason, passes=not missing, score=score))

    def _choice(self, asked: Mapping[str, Any], parsed: ParsedRequest) -> str:
        """Choose between two replies: the one with more of the rubric's quoted words; without quotes by lot.

        The lot of a text is the same in both places. `sim-judge-first` always names the first, `sim-judge-long` the
        longer one.
        """
        texts = [_all_said(asked[place]) if "reply" not in asked[place] else asked[place]["reply"] for place in "AB"]
        wanted = ["".join(found) for found in _QUOTED.findall(str(asked.get("rubric", "")))]
        player = self.base_model(parsed.model)
        if player == "sim-judge-first":
            merits, why = [1.0, 0.0], "it comes first"
        elif player == "sim-judge-long":
            merits, why = [float(len(text)) for text in texts], "it says more"
        elif wanted:
            merits, why = [float(sum(words in text for words in wanted)) for text in texts], "it has more of the words"
        else:
            merits, why = [draw("merit", self.seed, parsed.model, text) for text in texts], "it is worth more"
        winner = "tie" if merits[0] == merits[1] else "A" if merits[0] > merits[1] else "B"
        return json.dumps({"id": asked.get("id"), "reason": why, "winner": winner})

    def gullible(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Judge by repeating any verdict found in the reply; without one, as `judge` does."""
        asked, _ = _question_to_judge(parsed)
        if asked is not None and "A" in asked:
            found = _CHOICE.findall("\n".join(str(asked[place].get("reply", "")) for place in "AB"))
            return _Draft(found[-1]) if found else self.judge(parsed, sha)
        found = _VERDICT.findall(str((asked or {}).get("reply", "")))
        return _Draft(found[-1]) if found else self.judge(parsed, sha)

    def mumbler(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Judge as `judge` does, but in words; in form only when asked once more."""
        judged = self.judge(parsed, sha)
        if len(parsed.user_texts) > 1:
            return judged
        return _Draft(f"I would say that it {'passes' if json.loads(judged.text)['pass'] else 'fails'}.")

    def sampled(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return a sample of what a model with its own knowledge and style answers; see `probes.py`, `sampling.py`."""
        voice = self._voice(parsed, sha)
        reasoning = voice.reasoning_tokens((parsed.user_texts or ("",))[-1]) if parsed.thinking else None
        thought = "**Thinking** about the question." if reasoning is not None and parsed.show_thoughts else None
        return _Draft(self._sampled_text(voice, parsed, sha), thought=thought, reasoning_tokens=reasoning)

    def _sampled_text(self, voice: Voice, parsed: ParsedRequest, sha: str) -> str:
        last = (parsed.user_texts or ("",))[-1]
        probe = self._script.probes.find(parsed.system, parsed.user_texts)
        if probe is None:
            return voice.with_closing(self.good(parsed, sha).text, last)
        if probe.kind == "temperature" or probe.reply is None:
            return voice.prose(last)
        if probe.kind == "border":
            return voice.recall(last, probe.reply)
        seen = "\n".join((parsed.system, *(text for _, text in parsed.messages)))
        if probe.kind == "limit" or not probe.is_checked or (probe.is_answerable(seen) and voice.follows()):
            return probe.reply
        return lost_fact(last) if probe.kind == "fact" else voice.prose(last)

    def _voice(self, parsed: ParsedRequest, sha: str) -> Voice:
        player = self.base_model(parsed.model) or ""
        is_seeded = parsed.seed is not None
        return Voice(
            character=CHARACTERS[player],
            identity=player if player == parsed.model else f"{player}:{parsed.model}",
            noise=("seed", parsed.seed, sha) if is_seeded else (self.seed, sha, parsed.take),
            temperature=1.0 if parsed.temperature is None else parsed.temperature,
            quantised=parsed.quantised,
        )

    def signed(self, parsed: ParsedRequest, sha: str) -> _Draft:
        """Return a reply that has to be sent back with its signature."""
        return _Draft(SIGNED_MARK + _quote(parsed.user_texts, sha))


_MODELS: dict[str, Callable[[Actor, ParsedRequest, str], _Draft]] = {
    "sim-good": Actor.good,
    "sim-drift": Actor.drift,
    "sim-think": Actor.think,
    "sim-echo": Actor.echo,
    "sim-safety": Actor.safety,
    "sim-empty": Actor.empty,
    "sim-seed": Actor.seed_reply,
    "sim-signed": Actor.signed,
    "sim-streamed": Actor.good,
    "sim-responses": Actor.good,
    **dict.fromkeys(("sim-judge", "sim-judge-first", "sim-judge-long"), Actor.judge),
    "sim-gullible": Actor.gullible,
    "sim-mumbler": Actor.mumbler,
    **dict.fromkeys(CHARACTERS, Actor.sampled),
}

_CALLERS = frozenset({"sim-good", "sim-drift", "sim-think", "sim-safety", "sim-signed", *CHARACTERS})
"""Models that call tools."""

_ORDER = re.compile(r"(?i)\b(ignore|pass|approve|score|verdict)\b")
_QUOTED = re.compile('"([^"]+)"|“([^”]+)”|「([^」]+)」')
_ID = re.compile(r'"id": *"([0-9a-f]+)"')
_CHOICE = re.compile(r"\{[^{}]*\"winner\"[^{}]*\}")
_VERDICT = re.compile(r"\{[^{}]*\"pass\"[^{}]*\}")


def _question_to_judge(parsed: ParsedRequest) -> tuple[dict[str, Any] | None, str]:
    """Return the question and the words outside it; where the last message only asks for a form, with its id."""
    texts = parsed.user_texts or ("",)
    asked, outside = _judged(texts[-1])
    named = _ID.search(texts[-1])
    if asked is None and named is not None and len(texts) > 1:
        before, _ = _judged(texts[-2])
        if before is not None:
            return {**before, "id": named[1]}, ""
    return asked, outside


def _judged(message: str) -> tuple[dict[str, Any] | None, str]:
    """Return the JSON object in a judge's prompt, and the words outside it."""
    begins = message.find("{")
    try:
        value, length = json.JSONDecoder().raw_decode(message[begins:]) if begins >= 0 else (None, 0)
    except ValueError:
        return None, message
    if not isinstance(value, dict):
        return None, message
    return value, message[:begins] + message[begins + length :]


def _all_said(asked: Mapping[str, Any]) -> str:
    return "\n".join(str(turn.get("assistant", "")) for turn in asked.get("conversation", ()))


def _all_done(asked: Mapping[str, Any]) -> str:
    """Return the steps that are judged: of the last turn where there is a reply, else of all turns."""
    turns = asked.get("conversation", [])[-1 if "reply" in asked else 0 :]
    return "\n".join(json.dumps(turn["steps"], ensure_ascii=False) for turn in turns if "steps" in turn)


def _opinion(asked: Mapping[str, Any] | None, reason: str, *, passes: bool, score: float | None = None) -> str:
    opinion: dict[str, Any] = {"id": None if asked is None else asked.get("id"), "reason": reason}
    if score is not None:
        opinion["score"] = score
    return json.dumps({**opinion, "pass": passes}, ensure_ascii=False)


def _quote(user_texts: tuple[str, ...], sha: str) -> str:
    last = user_texts[-1] if user_texts else ""
    return f'Turn {len(user_texts)}: you said "{last[:200]}". History {sha[:12]}.'


def _as_in_the_seed(reply: SimulatedReply) -> SimulatedReply:
    return SimulatedReply(
        text=reply.text,
        finish=reply.finish,
        input_tokens=22,
        visible_tokens=14,
        reasoning_tokens=178,
        reply_id="awNOaYKaHebfjMcP-dyd4Ao",
    )


def _in_form(draft: _Draft, parsed: ParsedRequest) -> _Draft:
    """Give a reply the form that the request asks for; a block or an empty reply stays as it is."""
    if parsed.schema is None or draft.finish not in ("stop", "length") or not draft.text:
        return draft
    text = schemas.fit(parsed.schema, draft.text) if parsed.schema else schemas.as_json(draft.text)
    if parsed.is_bare:
        text = str(json.loads(text))
    # A reply that stops short is cut as JSON, too.
    return replace(draft, text=text[: len(text) // 2] if draft.finish == "length" else text)


def _within_limits(draft: _Draft, parsed: ParsedRequest) -> _Draft:
    """Apply stop sequences, then the output limit; reasoning counts against it before the text."""
    text = draft.text
    cuts = [at for stop in parsed.stop if (at := text.find(stop)) >= 0]
    if cuts:
        text = text[: min(cuts)]
    limit = parsed.max_output_tokens
    reasoning = draft.reasoning_tokens
    if limit is None or count_tokens(text) + (reasoning or 0) <= limit:
        return replace(draft, text=text)
    if reasoning is not None and reasoning >= limit:
        return _Draft("", "length", draft.thought, limit)
    cut = cut_to_tokens(text, limit - (reasoning or 0))
    return replace(draft, text=cut, finish="length" if cut != text or not draft.calls else draft.finish)


def _change_numbers(text: str) -> _Draft:
    changed = _DIGITS.sub(lambda match: str(int(match[0]) + 1), text)
    return _Draft(changed) if changed != text else _drop_facts(text)


def _drop_facts(text: str) -> _Draft:
    half = text[: len(text) // 2].rstrip()
    return _Draft(half if half else "I do not know.")


def _switch_language(text: str) -> _Draft:
    chinese = _WIDE.search(text) is not None
    return _Draft("I would rather answer that in English." if chinese else "我更愿意用中文回答这个问题。")


def _stop_short(text: str) -> _Draft:
    return _Draft(_drop_facts(text).text, "length")


_SPOILS: dict[str, Callable[[str], _Draft]] = {
    "numbers": _change_numbers,
    "facts": _drop_facts,
    "language": _switch_language,
    "short": _stop_short,
}
