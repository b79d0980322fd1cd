"""What the action `cheat` of a fault script does: a provider does not serve what it sells.

Each option is one way to cheat, and changes nothing else: a shortened prompt is counted as it was sent, another model
answers under the name that was asked for. The ledger keeps the true counts. Pure, as `fault_actions.py` is.
"""

from __future__ import annotations

from dataclasses import replace

from convbatch.simulator.fault_script import FaultScript, Rule
from convbatch.simulator.replies import Actor, ParsedRequest, SimulatedReply, UnknownModel
from convbatch.simulator.wire import ReplySpec


def check_models(faults: FaultScript, actor: Actor) -> None:
    """Raise `UnknownModel` if a rule lets a model answer that does not exist."""
    for rule in faults.rules:
        model = rule.options.get("model")
        if model is not None and actor.base_model(model) is None:
            known = ", ".join(actor.models)
            raise UnknownModel(f"rule {rule.number}: option 'model': no simulated model {model!r}; known: {known}")


def asked_instead(rule: Rule | None, parsed: ParsedRequest) -> ParsedRequest:
    """Return what reaches a model in place of a request."""
    if rule is None or rule.action != "cheat":
        return parsed
    options = rule.options
    return replace(
        parsed,
        model=options["model"] or parsed.model,
        system="" if options["drop_system"] else parsed.system,
        messages=_last_turns(parsed.messages, options["keep_turns"]),
        replayed=() if options["keep_turns"] else parsed.replayed,
        max_output_tokens=_lower(parsed.max_output_tokens, options["most_output"]),
        temperature=parsed.temperature if options["temperature"] is None else options["temperature"],
        quantised=options["quantised"],
        take=1 if options["replay"] else parsed.take,
    )


def _last_turns(messages: tuple[tuple[str, str], ...], turns: int | None) -> tuple[tuple[str, str], ...]:
    asked = [at for at, (role, _) in enumerate(messages) if role == "user"]
    return messages if turns is None or len(asked) <= turns else messages[asked[-turns] :]


def _lower(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def reported(rule: Rule | None, reply: SimulatedReply) -> SimulatedReply:
    """Return a reply with the counts and the finish that the provider reports."""
    if rule is None or rule.action != "cheat":
        return reply
    options, reasoning = rule.options, reply.reasoning_tokens
    return replace(
        reply,
        input_tokens=round(reply.input_tokens * options["input_times"]) + options["input_plus"],
        visible_tokens=round(reply.visible_tokens * options["output_times"]),
        reasoning_tokens=None if reasoning is None else round(reasoning * options["reasoning_times"]),
        finish="stop" if options["hide_length"] and reply.finish == "length" else reply.finish,
    )


def renamed(rule: Rule | None, reply_spec: ReplySpec) -> ReplySpec:
    """Return a request with the model name that the reply gives."""
    if rule is None or rule.action != "cheat" or rule.options["name"] is None:
        return reply_spec
    return replace(reply_spec, parsed=replace(reply_spec.parsed, model=rule.options["name"]))
