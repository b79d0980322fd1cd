"""`convbatch doctor`: check what a run needs: configuration, keys, a gateway's list of models, one short request.

It never counts tokens through a gateway (some bill that as a generation), and sends nothing that costs unless a model
is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from convbatch.config.credentials import Credentials, variables_of
from convbatch.config.gateways import Config, Gateway, Overrides, Target
from convbatch.config.loader import load_config
from convbatch.config.targets import resolve_targets
from convbatch.console.text import printable, printable_lines
from convbatch.dialogue import Message, Settings, effective_settings, text_part
from convbatch.errors import ConvbatchError, SetupError, did_you_mean
from convbatch.exit_codes import ExitCode, worst
from convbatch.redaction import redact
from convbatch.reply import Attempt, Reply

if TYPE_CHECKING:
    from convbatch.engine.client import Client
    from convbatch.session.options import DoctorOptions

PROBE_TOKENS = 16
MODELS_SHOWN = 40


def run_doctor(options: DoctorOptions) -> ExitCode:
    """Print which keys are set; ask the named gateways for their models, and the named models for at most 16 tokens.

    Returns:
        The exit code: 0, 2 (configuration, or a key that is missing or refused), 3 (a probe failed).
    """
    loaded = load_config(options.config)
    _print(f"config: {loaded.path or 'none (presets only)'}")
    if options.models:
        targets = resolve_targets(options.models, options.gateways, loaded, Overrides(attempt_timeout_s=60.0))
        wanted = {target.gateway.name: target.gateway for target in targets}
    else:
        targets = ()
        wanted = {name: _gateway_named(name, loaded) for name in options.gateways}
    checked = [
        wanted.get(name) or table.for_model(None)
        for name, table in loaded.gateways.items()
        if not wanted or name in wanted
    ]
    credentials = Credentials.load((*checked, *(target.gateway for target in targets)), env_file=options.env_file)
    code = ExitCode.OK
    for gateway in checked:
        code = worst(code, _print_key(gateway, credentials, asked=bool(wanted)))
    if code or not wanted:
        return code
    return asyncio.run(_probe(list(wanted.values()), targets, credentials))


def _gateway_named(name: str, config: Config) -> Gateway:
    if name not in config.gateways:
        raise SetupError(f"unknown gateway {name!r}", hint=did_you_mean(name, config.gateways))
    return config.gateways[name].for_model(None)


def _print_key(gateway: Gateway, credentials: Credentials, *, asked: bool) -> ExitCode:
    variables = variables_of(gateway)
    command = credentials.key_command(gateway)
    try:
        credentials.require_keys([gateway]) if asked else credentials.require_variables([gateway])
    except ConvbatchError as error:
        if not asked:
            missing = credentials.missing([gateway]) or variables
            _print(f"{gateway.name}: {' and '.join(missing)} {_be(missing)} not set")
            return ExitCode.OK
        for problem in error.problems:
            _print(f"{gateway.name}: {problem}")
        return ExitCode.SETUP
    parts = [f"{' and '.join(variables)} {_be(variables)} set"] if variables else []
    if command is not None:
        parts.append("key_command printed a key" if asked else "key_command is not run without -g")
    _print(f"{gateway.name}: {', '.join(parts) or 'needs no key'}")
    return ExitCode.OK


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


async def _probe(gateways: Sequence[Gateway], targets: Sequence[Target], credentials: Credentials) -> ExitCode:
    code = ExitCode.OK
    for gateway in gateways:
        if gateway.base_url.startswith("simulator:"):
            _print(f"{gateway.name}: built in; `convbatch run` starts it")
            continue
        asked = [target for target in targets if target.gateway.name == gateway.name]
        code = worst(code, await _list_models(gateway, credentials, decides=not asked))
        for target in asked:
            code = worst(code, await _send_probe(target, credentials))
    return code


async def _list_models(gateway: Gateway, credentials: Credentials, *, decides: bool) -> ExitCode:
    """Print the gateway's list of models; unless it decides, and where a gateway has none, it is never a failure."""
    async with _client(Target(model="-", gateway=gateway), credentials) as client:
        found = await client.models()
    if isinstance(found, Attempt):
        _print(f"{gateway.name}: no list of models: {_describe_attempt(found)}")
        if not decides:
            return ExitCode.OK
        if _has_no_list(found):
            _print("  hint: not every gateway has one; -m MODEL tests the key with a short request")
            return ExitCode.OK
        return _print_hint(found, gateway)
    _print(f"{gateway.name}: {len(found)} models")
    for model in found[:MODELS_SHOWN]:
        _print(f"  {model}@{gateway.name}")
    if len(found) > MODELS_SHOWN:
        _print(f"  and {len(found) - MODELS_SHOWN} more")
    return ExitCode.OK


async def _send_probe(target: Target, credentials: Credentials) -> ExitCode:
    from convbatch.protocols.wire import Ask

    gateway = target.gateway
    short = Settings(max_output_tokens=PROBE_TOKENS)
    settings = effective_settings(command_line=short, target=gateway.settings, unset=gateway.unset)
    question = Ask(
        model=target.model,
        messages=(Message(role="user", parts=(text_part("Say OK."),)),),
        settings=settings,
    )
    async with _client(target, credentials) as client:
        attempt = await client.attempt(question)
    if not isinstance(attempt.outcome, Reply):
        _print(f"{target.name}: {_describe_attempt(attempt)}")
        return _print_hint(attempt, gateway)
    reply = attempt.outcome
    usage = reply.usage
    counts = f"input {_known(usage.input_tokens)}, output {_known(usage.output_tokens)}"
    _print(f"{target.name}: answered in {attempt.latency_s:.2f} s, {reply.finish_reason_raw}, {counts} tokens")
    served = printable((reply.model_version or "unknown")[:200])
    _print(f"  served as {served}: {(reply.text or '')[:200]!r}")
    if attempt.wire_note is not None:
        _print(f"  note: {attempt.wire_note}")
    return ExitCode.OK


_KEY_REFUSED = frozenset(("auth", "permission"))
_NO_LIST = frozenset(("not_found", "bad_response", "invalid_request"))


def _has_no_list(attempt: Attempt) -> bool:
    """Whether the answer only says that there is no list of models: no such path, or something else than a list."""
    failure = attempt.outcome
    if isinstance(failure, Reply):
        return True
    return attempt.http_status in (200, 400, 404, 405, 410, 501) and failure.kind in _NO_LIST


def _print_hint(attempt: Attempt, gateway: Gateway) -> ExitCode:
    """Print what to do about a failure; return 2 if the key is refused, else 3."""
    failure = attempt.outcome
    if isinstance(failure, Reply) or failure.kind not in _KEY_REFUSED:
        return ExitCode.INCOMPLETE
    source = " and ".join(variables_of(gateway)) or ("key_command" if gateway.key_command else None)
    refused = "the gateway wants a key: set auth and key_env" if source is None else f"the key of {source} is refused"
    _print(f"  hint: {refused}; check that it belongs to {gateway.base_url}")
    return ExitCode.SETUP


@asynccontextmanager
async def _client(target: Target, credentials: Credentials) -> AsyncGenerator[Client]:
    from convbatch.engine.client import AiohttpTransport, Client
    from convbatch.system import RealClock

    gateway = target.gateway
    transport = AiohttpTransport(ca_file=gateway.ca_file, proxy=credentials.proxy(gateway))
    try:
        yield Client(
            target,
            credentials.key_command(gateway) or credentials.key(gateway),
            secret_headers=credentials.secret_headers(gateway),
            transport=transport,
            redactor=credentials.redactor(),
            clock=RealClock(),
        )
    finally:
        await transport.close()


def _describe_attempt(attempt: Attempt) -> str:
    failure = attempt.outcome
    assert not isinstance(failure, Reply)
    status = "" if attempt.http_status is None else f"HTTP {attempt.http_status}, "
    return f"{status}{failure.kind}: {failure.message[:300]}"


def _known(count: int | None) -> str:
    return "unknown" if count is None else str(count)


def _print(line: str) -> None:
    print(printable_lines(redact(line)), flush=True)  # noqa: T201  # the command's output
