"""Resolve `-m`, `-g` and the config to targets, and parse the request fields of `-p`."""

from __future__ import annotations

import contextlib
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from convbatch import strict_json
from convbatch.config.gateways import NO_OVERRIDES, Config, Overrides, Target
from convbatch.dialogue import NO_VARIANT
from convbatch.errors import Place, SetupError, did_you_mean, nearest
from convbatch.redaction import display, looks_like_key

SIMULATED_MODELS = ("sim-good@simulator", "sim-drift@simulator")


def resolve_targets(
    models: Sequence[str],
    gateways: Sequence[str],
    config: Config,
    overrides: Overrides = NO_OVERRIDES,
    variants: Sequence[str] = (),
) -> tuple[Target, ...]:
    """Resolve `-m`, `-g`, `--variant` and the config to targets, in the given order.

    That is: for each model each gateway, and at each of them each variant.

    Raises:
        SetupError: An unknown or unused gateway, a model without one, an unknown variant, a duplicate target, or no
            target.
    """
    for gateway in gateways:
        if gateway not in config.places:
            if (names := _several(gateway)) is not None:
                again = " ".join(f"-g {name}" for name in names)
                raise SetupError(f"-g takes one gateway, not {gateway!r}", hint=f"repeat it: {again}")
            raise _unknown_gateway(gateway, config, what=f"unknown gateway {gateway!r}")
    if not models and not gateways:
        named = _configured_models(config)
    elif not models:
        raise SetupError(
            f"-g {gateways[0]} is unused: no -m names a model to ask there",
            hint=f"add -m MODEL (`convbatch doctor -g {gateways[0]}` lists the models of a gateway)",
        )
    else:
        split = [_split_variant(text, config) for text in models]
        named = [
            _Named(model, gateway, variant)
            for text, variant in split
            for model, gateway in _expand_model(text, gateways, config)
        ]
        _refuse_unused(gateways, [one.gateway for one in named], models)
    wordings = _variants(variants, config)
    asked = [
        one._replace(variant=wording)
        for one in named
        for wording in (wordings if one.variant is None else (one.variant,))
    ]
    _refuse_duplicates(asked)
    _refuse_unused_variants(variants, asked)
    return tuple(
        replace(config.target(one.model, one.gateway, overrides), variant=config.variants.get(one.variant or ""))
        for one in asked
    )


class _Named(NamedTuple):
    """A target as it is named; the place is that in the config."""

    model: str
    gateway: str
    variant: str | None = None
    """None: every variant of the run."""
    place: Place | None = None

    def __str__(self) -> str:
        wording = "" if self.variant in (None, NO_VARIANT) else f"#{self.variant}"
        return f"{self.model}@{self.gateway}{wording}"


def _split_variant(text: str, config: Config) -> tuple[str, str | None]:
    """Split `model@gateway#variant` at the last `#` if a known variant follows a known gateway; else (text, None)."""
    target, mark, variant = text.rpartition("#")
    is_target = bool(mark) and variant in config.variants and split_target(target, config.places)[1] is not None
    return (target, variant) if is_target else (text, None)


def _variants(names: Sequence[str], config: Config) -> Sequence[str]:
    """Return the names of `--variant`, else of `[run] variants`, else that of the dialogues as they are."""
    places: Sequence[Place | None] = [None] * len(names)
    if not names:
        names, places = config.run.variants, config.run.variant_places
    for name, place in zip(names, places, strict=True):
        if name != NO_VARIANT and name not in config.variants:
            raise _unknown_variant(name, config, place)
        if names.count(name) > 1:
            raise SetupError(f"the variant {name} is given {names.count(name)} times", place=place, hint="name it once")
    return names or (NO_VARIANT,)


def _unknown_variant(name: str, config: Config, place: Place | None) -> SetupError:
    if (several := _several(name)) is not None:
        again = " ".join(f"--variant {one}" for one in several)
        return SetupError(f"--variant takes one variant, not {name!r}", place=place, hint=f"repeat it: {again}")
    known = did_you_mean(name, (*config.variants, NO_VARIANT))
    table = f'a [variants.{name}] table in {config.path or "convbatch.toml"}, e.g. system_file = "prompts/{name}.md"'
    hint = f"{known}; one of your own is {table}" if re.fullmatch(r"[\w.-]+", name) else known
    return SetupError(f"unknown variant {name!r}", place=place, hint=hint)


_Pair = tuple[str, str]


def split_target(text: str, known: Iterable[str]) -> tuple[str, str | None]:
    """Split `model@gateway` at the last `@` if a known gateway follows it; else return (text, None)."""
    model, at, gateway = text.rpartition("@")
    return (model, gateway) if at and gateway in frozenset(known) else (text, None)


def resolve_judge(text: str, config: Config, overrides: Overrides) -> Target:
    """Return the target of `--judge`.

    Raises:
        SetupError: It names no known gateway.
    """
    _refuse_several(text, None, "--judge")
    model, gateway = split_target(text, config.places)
    if gateway is None:
        raise _no_gateway(text, config, place=None, option="--judge")
    return config.target(_model_name(model, text, None), gateway, overrides)


def _configured_models(config: Config) -> list[_Named]:
    if config.path is None and not config.run.models:
        simulated = [split_target(name, config.places) for name in SIMULATED_MODELS]
        return [_Named(model, gateway or "simulator") for model, gateway in simulated]
    if not config.run.models:
        raise SetupError(
            f"{config.path}: no models to ask: [run] has no `models`, and there is no -m",
            hint='write models = ["MODEL@GATEWAY"] under [run], or add -m MODEL@GATEWAY '
            f"(-m {SIMULATED_MODELS[0]} asks the built-in simulator)",
        )
    named: list[_Named] = []
    for text, place in zip(config.run.models, config.run.model_places, strict=True):
        _refuse_several(text, place)
        target, variant = _split_variant(text, config)
        model, gateway = split_target(target, config.places)
        if gateway is None:
            raise _no_gateway(target, config, place=place)
        named.append(_Named(_model_name(model, target, place), gateway, variant, place))
    return named


def _expand_model(text: str, gateways: Sequence[str], config: Config) -> list[_Pair]:
    """Expand one -m: to its own gateway, else to every -g."""
    _refuse_several(text, None, has_gateway=bool(gateways))
    model, gateway = split_target(text, config.places)
    if gateway is not None:
        return [(_model_name(model, text, None), gateway)]
    if not gateways:
        raise _no_gateway(text, config, place=None)
    _, at, suffix = text.rpartition("@")
    if at and nearest(suffix, config.places) is not None:
        # `gemini@gogle -g google` is more likely a typo than a model name with an `@`.
        what = f"unknown gateway {suffix!r} in -m {text}"
        raise _unknown_gateway(suffix, config, what=what, more=f"; a model of that name is {text}@GATEWAY")
    return [(_model_name(text, text, None), gateway) for gateway in gateways]


def _several(text: str) -> list[str] | None:
    """Return the names in a list of them, such as `a,b`; None for a single name."""
    names = [name.strip(" '\"“”‘’") for name in re.split(r"[,，、;；\s]+", text.strip(" []")) if name.strip()]
    return names if len(names) > 1 else None


def _refuse_several(text: str, place: Place | None, option: str = "-m", *, has_gateway: bool = False) -> None:
    """Refuse a list of models where one is named.

    Raises:
        SetupError: It is one.
    """
    names = _several(text)
    if names is None or (not re.search("[,，、;；]", text) and not all("@" in name for name in names)):
        return  # a name with a blank has a message of its own
    gateways = {name.rpartition("@")[2] for name in names if "@" in name}
    if not has_gateway or gateways:
        missing = f"@{gateways.pop()}" if len(gateways) == 1 else "@GATEWAY"
        names = [name if "@" in name else f"{name}{missing}" for name in names]
    if place is not None:
        listed = ", ".join(f'"{name}"' for name in names)
        hint = f"write them one by one: models = [{listed}]"
        raise SetupError(f"{text!r} is one text for {len(names)} models", place=place, hint=hint)
    hint = f"repeat it: {' '.join(f'-m {name}' for name in names)}" if option == "-m" else f"name one: {names[0]}"
    raise SetupError(f"{option} takes one model", found=repr(text), hint=hint)


def _model_name(model: str, text: str, place: Place | None) -> str:
    if not model.strip():
        raise SetupError(f"{text!r} has no model name", place=place, hint="write MODEL@GATEWAY")
    if model != model.strip() or not model.isprintable():
        what = f"the model name in {text!r} has blanks or invisible characters around or in it"
        plain = "".join(filter(str.isprintable, model)).strip()
        raise SetupError(what, place=place, hint=f"write {text.replace(model, plain, 1)!r}")
    return model


def _no_gateway(text: str, config: Config, *, place: Place | None, option: str = "-m") -> SetupError:
    _, at, suffix = text.rpartition("@")
    what = f"unknown gateway {suffix!r} in {text!r}" if at else f"the model {text!r} has no gateway"
    known = _translated(text, config.places)
    if known is not None:
        hint = f"did you mean {known!r}? or write {text}@GATEWAY, if that is the model's own name at another gateway"
        return SetupError(what, place=place, hint=hint)
    if at and not suffix:
        names = ", ".join(sorted(config.places))
        return SetupError(f"no gateway after the @ of {text!r}", place=place, hint=f"known gateways: {names}")
    if at:
        more = f"; if {text!r} is the model's own name, write {text}@GATEWAY"
        return _unknown_gateway(suffix, config, what=what, place=place, more=more)
    if not text:
        hint = f"write {option} MODEL@GATEWAY"
    elif place is not None:
        hint = f'write "{text}@GATEWAY"'
    else:
        hint = f"write {option} {text}@GATEWAY" + (", or add -g GATEWAY" if option == "-m" else "")
        usual = next((f"{text}@simulator" for name in SIMULATED_MODELS if name.startswith(f"{text}@")), None)
        hint = f"did you mean {option} {usual}? {hint}" if usual else hint
    return SetupError(
        f"the model {text!r} has no gateway",
        place=place,
        hint=f"{hint}; known gateways: {', '.join(sorted(config.places))}",
    )


_INTERFACES = {"chat": "", "completion": "", "responses": "-responses", "messages": ""}
"""Second part of a promptfoo name → what the name of the gateway for this protocol ends in."""
_OTHER_NAMES = {
    **{"gemini": "google", "claude": "anthropic", "qwen": "dashscope", "kimi": "moonshot", "doubao": "ark"},
    **{"zhipuai": "zhipu", "glm": "zhipu", "sim": "simulator"},
}
"""Names of other tools and of model families → our gateway, where there is one."""


def _translated(text: str, gateways: Collection[str]) -> str | None:
    """Return `model@gateway` for the name of a model in another tool, such as `openai/gpt-4o`; None if it is none."""
    swapped = re.fullmatch(r"([\w.-]+)[@=](.+)|(.+?)\s*[\uff20=]\s*([\w.-]+)", text)
    if swapped is not None:
        gateway, model = (swapped[1], swapped[2]) if swapped[1] is not None else (swapped[4], swapped[3])
        for name, other in ((gateway, model), (model, gateway)):
            if (known := _gateway_named(name, gateways)) is not None:
                return f"{other}@{known}"
    named = re.fullmatch(r"([\w.-]+)[/:](.+)", text.removeprefix("openai-api/"))
    gateway = None if named is None else _gateway_named(named[1], gateways)
    if named is None or gateway is None or "@" in text:
        return None
    interface, colon, model = named[2].partition(":")
    if colon and interface in _INTERFACES:
        own = gateway + _INTERFACES[interface]
        return f"{model}@{own if own in gateways else gateway}"
    return f"{named[2]}@{gateway}"


def _gateway_named(name: str, gateways: Collection[str]) -> str | None:
    """Return the gateway that a name of another tool or another case means."""
    plain = name.strip().lower()
    return next((one for one in (plain, _OTHER_NAMES.get(plain)) if one in gateways), None)


def _unknown_gateway(name: str, config: Config, *, what: str, place: Place | None = None, more: str = "") -> SetupError:
    own = f"; a gateway of your own is a [gateways.{name}] table in {config.path or 'convbatch.toml'}"
    own = own if re.fullmatch(r"[\w.-]+", name) else ""
    meant = _gateway_named(name, config.places) or _gateway_at(name, config)
    hint = did_you_mean(name if meant is None else meant, config.places)
    return SetupError(what, place=place, hint=hint + more + own)


def _gateway_at(name: str, config: Config) -> str | None:
    """Return the gateway whose host a name is, with or without scheme and path."""
    host = re.sub(r"^https?://", "", name.strip().lower()).partition("/")[0]
    urls = {gateway: str(config.gateways[gateway].values.get("base_url")) for gateway in sorted(config.gateways)}
    return next(
        (one for one, url in urls.items() if "." in host and url.partition("//")[2].partition("/")[0] == host), None
    )


def _refuse_unused(gateways: Sequence[str], used: Sequence[str], models: Sequence[str]) -> None:
    for gateway in gateways:
        if gateway not in used:
            raise SetupError(
                f"-g {gateway} is unused: every -m names its own gateway",
                found=" ".join(f"-m {model}" for model in models),
                hint=f"drop -g {gateway}, or give a model without @: -m MODEL -g {gateway}",
            )


def _refuse_unused_variants(variants: Sequence[str], asked: Sequence[_Named]) -> None:
    for name in variants:
        if name != NO_VARIANT and all(one.variant != name for one in asked):
            raise SetupError(
                f"--variant {name} is unused: every model names its own variant",
                found=", ".join(map(str, asked)),
                hint=f"drop --variant {name}, or name a model without #: MODEL@GATEWAY",
            )


def _refuse_duplicates(named: Sequence[_Named]) -> None:
    counts = Counter(map(str, named))
    for one in reversed(named):
        if (count := counts[str(one)]) > 1:
            raise SetupError(
                f"the target {one} is given {count} times",
                place=one.place,
                hint="name each target once; --repeats N asks the same target N times",
            )


def parse_params(params: Sequence[str]) -> dict[str, Any]:
    """Parse `-p a.b=value` options to one nested object for `Settings.extra`; a value is JSON if it parses, else text.

    Raises:
        SetupError: No `=`, an empty name in the path, invalid JSON, or contradictory options.
    """
    nested: dict[str, Any] = {}
    for param in params:
        path, equals, text = param.partition("=")
        names = path.strip().split(".")
        if not equals or not all(names) or not all(map(_is_plain_name, names)):
            given = path if equals and path else display(param)
            raise SetupError(f"-p {given} is not PATH=VALUE", hint=_param_hint(param))
        if looks_like_key(text):
            raise SetupError(
                f"-p {path.strip()} contains what looks like a key",
                hint="keys are not allowed in request bodies: name a variable in key_env (docs/gateways.md)",
            )
        _set_nested(nested, names, _param_value(path.strip(), text))
    return nested


_FULL_WIDTH = dict(zip("＝：．，“”‘’＂＇｛｝［］「」『』", '=:.,""\'\'"\'{}[]""""', strict=True))
"""What a Chinese or Japanese input method writes for the marks of `-p`, and the marks."""


def _is_plain_name(name: str) -> bool:
    return not any(char in _FULL_WIDTH or char.isspace() for char in name.strip())


def _param_hint(param: str) -> str:
    """Return what to write in place of a `-p` that is not PATH=VALUE; never its value if that may be a key."""
    match = re.fullmatch(
        r"(?:--?)?[\"']?([\w.\[\]-]+)[\"']?\s*(?:=|:=?|\s)\s*(.+)", _plain_marks(param).strip(), re.DOTALL
    )
    if match is None or looks_like_key(match[2]):
        return "write -p a.b=value: names separated by dots, then =, then JSON or text"
    written = f"write -p {shlex.quote(f'{match[1]}={match[2]}')}"
    return f"{_odd_mark(param) or 'the name and its value are joined by ='}: {written}"


def _plain_marks(text: str) -> str:
    return "".join(_FULL_WIDTH.get(char, char) for char in text)


def _odd_mark(text: str) -> str | None:
    """Return the name of the first full-width mark in a text; None without one."""
    odd = next((char for char in text if char in _FULL_WIDTH), None)
    return None if odd is None else f"{odd} is U+{ord(odd):04X} ({unicodedata.name(odd).lower()})"


def _param_value(path: str, text: str) -> Any:
    with contextlib.suppress(ValueError):
        return strict_json.parse(text, finite=True)  # 1e999 would be sent as null
    start = text.lstrip()[:1]
    is_quoted = start in ("{", "[", '"')
    second = re.search(r",\s*(?:-p\s+)?([A-Za-z_][\w.]*)=", text)
    if second is not None and not is_quoted:
        again = f"-p {path}={text[: second.start()]} -p {second[1]}=…"
        raise SetupError(
            f"-p {path} has a second field in its value",
            found=display(text),
            hint=f"repeat the option: {again}; to send all of it as text, write a JSON string",
        )
    if is_quoted or start in _FULL_WIDTH:
        hint = "put single quotes around the whole option"
        if (odd := _odd_mark(text)) is not None:
            plain = _plain_marks(text)
            hint = (
                f"{odd}: write -p {shlex.quote(f'{path}={plain}')}" if _is_json(plain) else f"{odd}, not a mark of JSON"
            )
        raise SetupError(
            f"-p {path} starts like JSON but does not parse",
            found=display(text),
            hint=f"{hint}; to send it as text, write a JSON string",
        )
    return text


def _is_json(text: str) -> bool:
    try:
        strict_json.parse(text, finite=True)
    except ValueError:
        return False
    return True


def _set_nested(nested: dict[str, Any], names: Sequence[str], value: Any) -> None:
    *parents, last = names
    for depth, name in enumerate(parents, 1):
        inner = nested.setdefault(name, {})
        if not isinstance(inner, dict):
            raise _contradiction(names[:depth], names)
        nested = inner
    if last in nested:
        raise _contradiction(names, names)
    nested[last] = value


def _contradiction(first: Sequence[str], second: Sequence[str]) -> SetupError:
    what = f"-p {'.'.join(second)} is given twice" if first == second else (
        f"-p {'.'.join(second)} goes inside {'.'.join(first)}, which is given a value of its own"
    )  # fmt: skip
    return SetupError(what, hint="give each path of the request body once")
