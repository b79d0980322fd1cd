"""`convbatch doctor`: check what a run needs: configuration, keys, a gateway's list of models, one short request.

Without options it checks what `[run] models` of the config need, and sends nothing. It never counts tokens through a
gateway (some bill that as a generation), and sends nothing that costs unless a model is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convbatch.config.credentials import Credentials, variables_of
from convbatch.config.gateways import Config, Gateway, Overrides, Target
from convbatch.config.loader import load_config, presets
from convbatch.config.targets import resolve_targets
from convbatch.console.text import printable, printable_lines
from convbatch.dataset.reader import count_of
from convbatch.dialogue import NO_VARIANT, Message, Settings, effective_settings, text_part
from convbatch.errors import ConvbatchError, SetupError, did_you_mean
from convbatch.exit_codes import ExitCode, worst
from convbatch.redaction import redact
from convbatch.reply import Attempt, Reply
from convbatch.session.next_command import command_line

if TYPE_CHECKING:
    from convbatch.engine.client import Client, ListedModels
    from convbatch.engine.suspension import Address
    from convbatch.session.options import DoctorOptions

PROBE_TOKENS = 16
MODELS_SHOWN = 40


def run_doctor(options: DoctorOptions) -> ExitCode:
    """Check the named models and gateways, which are asked; without any, the keys that the config's models need.

    Returns:
        The exit code: 0, 2 (configuration, or a key that is missing or refused), 3 (a probe failed).
    """
    loaded = load_config(options.config)
    _print(f"config: {loaded.path or 'none (presets only)'}")
    if options.list_models and not options.gateways and not options.models:
        raise SetupError("--models needs a gateway", hint="e.g. convbatch doctor --models -g google")
    if not options.models and not options.gateways:
        return _check_config(options, loaded)
    targets: tuple[Target, ...] = ()
    if options.models:
        named = resolve_targets(
            options.models, options.gateways, loaded, Overrides(attempt_timeout_s=60.0), (NO_VARIANT,)
        )
        targets = tuple(one for target in named for one in target.asked_targets)
    wanted = {target.gateway.name: target.gateway for target in targets}
    if not targets:
        members = [name for given in options.gateways for name in _members_of(given, loaded)]
        wanted = {name: _gateway_named(name, loaded) for name in members}
    credentials = _load_credentials(options, loaded, (*wanted.values(), *(target.gateway for target in targets)))
    code = ExitCode.OK
    for gateway in wanted.values():
        code = worst(code, _print_key(gateway, credentials, asked=True))
    return code or asyncio.run(_probe(list(wanted.values()), targets, credentials, shows_all=options.list_models))


def _load_credentials(options: DoctorOptions, loaded: Config, gateways: Iterable[Gateway]) -> Credentials:
    credentials = Credentials.load(gateways, env_file=options.env_file, configured=loaded.env_file)
    if credentials.env_file is not None:
        _print(f"keys: from the environment and {credentials.env_file}")
    elif credentials.absent_env_file is not None:
        _print(f"keys: from the environment; {credentials.absent_env_file} (env_file) does not exist")
    return credentials


def _check_config(options: DoctorOptions, loaded: Config) -> ExitCode:
    """Print the keys that `[run] models` need, then those of the config's other gateways; nothing is sent."""
    named = resolve_targets((), (), loaded, variants=(NO_VARIANT,)) if loaded.run.models else ()
    needed = tuple(one for target in named for one in target.asked_targets)
    own = [table.for_model(None) for name, table in loaded.gateways.items() if presets().get(name) != table]
    credentials = _load_credentials(options, loaded, (*own, *(target.gateway for target in needed)))
    code = ExitCode.OK
    for name in dict.fromkeys(target.gateway.name for target in needed):
        models = [target for target in needed if target.gateway.name == name]
        users = ", ".join(target.name for target in models)
        code = worst(code, _print_key(models[0].gateway, credentials, required_by=users))
    if loaded.path is None:
        _print("`convbatch run` asks the built-in simulator, which needs no key")
    elif not needed:
        _print(f"{loaded.path} has no [run] models: `convbatch run` needs -m MODEL@GATEWAY")
    used = {target.gateway.name for target in needed}
    for gateway in own:
        if gateway.name not in used:
            _print_key(gateway, credentials)
    _print("a preset that no model of [run] uses is checked with -g NAME, e.g. convbatch doctor -g google")
    if named and not code:
        config = None if loaded.path is None else Path(loaded.path)
        probe = replace(options, models=(named[0].name,), config=config, env_file=credentials.env_file)
        _print(f"next, a request of at most {PROBE_TOKENS} tokens: {command_line('doctor', probe)}")
    return code


def _members_of(name: str, config: Config) -> tuple[str, ...]:
    """Return the gateways of a pool; the name itself if it is none."""
    return config.pools[name].gateways if name in config.pools else (name,)


def _gateway_named(name: str, config: Config) -> Gateway:
    if name not in config.gateways:
        raise SetupError(f"unknown gateway {name!r}", hint=did_you_mean(name, config.places))
    return config.gateways[name].for_model(None)


def _print_key(
    gateway: Gateway, credentials: Credentials, *, asked: bool = False, required_by: str | None = None
) -> ExitCode:
    """Print whether the gateway's key is there; a missing one is a mistake if a model needs it."""
    variables = variables_of(gateway)
    command = credentials.key_command(gateway)
    try:
        credentials.require_keys([gateway]) if asked else credentials.require_variables([gateway])
    except ConvbatchError as error:
        if not asked and required_by is None:
            missing = credentials.missing([gateway]) or variables
            _print(f"{gateway.name}: {' and '.join(missing)} {_be(missing)} not set; no model of [run] needs it")
            return ExitCode.OK
        for problem in error.problems:
            _print(f"{gateway.name}: {problem}")
        if required_by is not None:
            _print(f"  needed by: {required_by}")
        return ExitCode.SETUP
    parts = [f"{' and '.join(variables)} {_be(variables)} set"] if variables else []
    if command is not None:
        parts.append("key_command printed a key" if asked else "key_command is not run without -g")
    _print(
        f"{gateway.name}: {', '.join(parts) or 'needs no key'}{f' (needed by {required_by})' if required_by else ''}"
    )
    return ExitCode.OK


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


async def _probe(
    gateways: Sequence[Gateway], targets: Sequence[Target], credentials: Credentials, *, shows_all: bool
) -> ExitCode:
    code = ExitCode.OK
    for gateway in gateways:
        if gateway.base_url.startswith("simulator:"):
            _print(f"{gateway.name}: built in; `convbatch run` starts it")
            continue
        asked = [target for target in targets if target.gateway.name == gateway.name]
        answered = [await _send_probe(target, credentials) for target in asked]
        listed = await _list_models(gateway, credentials, asked, worst(*answered), shows_all=shows_all)
        code = worst(code, *answered, listed)
    return code


async def _list_models(
    gateway: Gateway, credentials: Credentials, asked: Sequence[Target], answered: ExitCode, *, shows_all: bool
) -> ExitCode:
    """Print the gateway's list of models; it decides only where no model was asked, and a gateway need not have one."""
    async with _client(Target(model="-", gateway=gateway), credentials) as client:
        found = await client.models()
    if isinstance(found, Attempt):
        return _print_no_list(found, gateway, asked, answered)
    if asked and not answered:
        absent = [target.model for target in asked if target.model not in found.names]
        where = f"{', '.join(absent)} not among them, but answered" if absent else "with what was asked"
        _print(f"{gateway.name}: {count_of(len(found.names), 'model')} in its list, {where}")
        if not shows_all:
            return ExitCode.OK
    else:
        _print(f"{gateway.name}: {count_of(len(found.names), 'model')}")
    _print_models(found, gateway, shows_all=shows_all)
    return ExitCode.OK


def _print_models(found: ListedModels, gateway: Gateway, *, shows_all: bool) -> None:
    shown = found.names if shows_all else found.names[:MODELS_SHOWN]
    for model in shown:
        details = f"  {found.details[model]}" if shows_all and model in found.details else ""
        _print(f"  {model}@{gateway.name}{details}")
    if len(found.names) > len(shown):
        _print(f"  and {len(found.names) - len(shown)} more: --models prints all")


def _print_no_list(found: Attempt, gateway: Gateway, asked: Sequence[Target], answered: ExitCode) -> ExitCode:
    if asked and not answered:
        status = f" (HTTP {found.http_status})" if found.http_status else ""
        _print(f"{gateway.name}: gives no list of models{status}; it needs none, since what was asked answered")
        return ExitCode.OK
    _print(f"{gateway.name}: no list of models: {_describe_attempt(found)}")
    if asked:
        return ExitCode.OK
    if _has_no_list(found):
        _print("  hint: not every gateway has one; -m MODEL tests the key with a short request")
        return ExitCode.OK
    return _print_hint(found, gateway)


async def _send_probe(target: Target, credentials: Credentials) -> ExitCode:
    from convbatch.protocols.wire import Ask, CannotCarry

    gateway = target.gateway
    question = Ask(
        model=target.model,
        messages=(Message(role="user", parts=(text_part("Say OK."),)),),
        settings=_short_settings(gateway),
        stream=gateway.stream,
    )
    async with _client(target, credentials) as client:
        try:
            attempt = await client.attempt(question)
        except CannotCarry as cannot:
            _print(f"{target.name}: {cannot}")
            _print("  hint: correct the settings of this model in the config")
            return ExitCode.SETUP
        address = client.address()
    if not isinstance(attempt.outcome, Reply):
        _print(f"{target.name}: {_describe_attempt(attempt)}")
        return _print_hint(attempt, gateway, address)
    reply = attempt.outcome
    usage = reply.usage
    counts = f"input {_known(usage.input_tokens)}, output {_known(usage.output_tokens)}"
    _print(f"{target.name}: answered in {attempt.latency_s:.2f} s, {reply.finish_reason_raw}, {counts} tokens")
    served = printable((reply.model_version or "unknown")[:200])
    _print(f"  served as {served}: {(reply.text or '')[:200]!r}")
    if attempt.wire_note is not None:
        _print(f"  note: {attempt.wire_note}")
    return ExitCode.OK


def _short_settings(gateway: Gateway) -> Settings:
    """Return the settings of the short request; thinking with more tokens than it has is left out."""
    short = Settings(max_output_tokens=PROBE_TOKENS)
    settings = effective_settings(command_line=short, target=gateway.settings, unset=gateway.unset)
    if (settings.thinking_budget or 0) < PROBE_TOKENS:
        return settings
    return settings.without(("thinking_budget", "include_thoughts"))


_KEY_REFUSED = frozenset(("auth", "permission"))
_NO_LIST = frozenset(("not_found", "bad_response", "invalid_request"))


def _has_no_list(attempt: Attempt) -> bool:
    """Whether the answer only says that there is no list of models: no such path, or something else than a list."""
    failure = attempt.outcome
    if isinstance(failure, Reply):
        return True
    return attempt.http_status in (200, 400, 404, 405, 410, 501) and failure.kind in _NO_LIST


def _print_hint(attempt: Attempt, gateway: Gateway, address: Address | None = None) -> ExitCode:
    """Print what to do about a failure; return 2 if the key is refused, else 3."""
    from convbatch.engine.connection_errors import way_out
    from convbatch.engine.suspension import correct_address, other_protocol

    failure = attempt.outcome
    if isinstance(failure, Reply):
        return ExitCode.INCOMPLETE
    if failure.kind not in _KEY_REFUSED:
        hint = other_protocol(failure.message) or way_out(failure.message).removeprefix(": ")
        if failure.no_model and address is not None:
            hint = correct_address(address, attempt.body)
        if hint:
            _print(f"  hint: {hint}")
        return ExitCode.INCOMPLETE
    source = " and ".join(variables_of(gateway)) or ("key_command" if gateway.key_command else None)
    refused = "the gateway wants a key: set auth and key_env" if source is None else f"the key of {source} is refused"
    _print(f"  hint: {refused}; check that it belongs to {gateway.base_url}")
    return ExitCode.SETUP


@asynccontextmanager
async def _client(target: Target, credentials: Credentials) -> AsyncGenerator[Client]:
    from convbatch.engine.client import Client
    from convbatch.engine.transport import AiohttpTransport
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
