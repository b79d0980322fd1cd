"""The JSON Schemas that convbatch publishes: of its config file, and with `dataset/json_schema.py` of a dataset.

Keys come from the tables of `validators.py`. The schema refuses nothing that the loader accepts; the loader refuses
more: `LOADER_ONLY` lists what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from convbatch.config.loader import SCHEMA_KEY
from convbatch.config.prices import RATE_KEYS, ROW_KEYS, TIER_KEYS
from convbatch.config.usage_log_form import COLUMN_KEYS, NEEDED_KEYS
from convbatch.config.usage_logs import USAGE_LOG_KEYS
from convbatch.config.validators import (
    GATEWAY_KEYS,
    GATEWAY_NAME,
    HISTORIES,
    JUDGE_KEYS,
    MAX_AMOUNT,
    MODEL_KEYS,
    POOL_KEYS,
    REPLAYS,
    RUN_KEYS,
    SYSTEM_ROLES,
    TPM_COUNTS,
    VARIANT_KEYS,
)
from convbatch.dataset.json_schema import DIALECT, dataset_schema, settings_schema
from convbatch.dialogue import SETTING_NAMES
from convbatch.errors import SetupError, did_you_mean
from convbatch.protocols import PROTOCOLS

LOADER_ONLY = (
    "anything that looks like a key, and keys that TOML has twice",
    "whole numbers that are written with a point (`1.0`), `inf` and `nan`, and days that do not exist",
    "addresses, paths, header names, time zones and thinking tags that are none, and files that cannot be read",
    "a gateway without protocol or base_url that is no preset, and keys that do not fit its protocol or each other",
    "prices and usage logs of a gateway that is neither in the file nor a preset, and prices without a currency",
    "a pool or variant whose name is taken, and a pool of gateways that do not exist",
    "two prices or two tiers of one model from the same day or number of tokens, and exchange rates in both directions",
)
"""What the loader refuses beyond the schema."""

_TEXT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_FLAG: Mapping[str, Any] = {"type": "boolean"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 1}
_LARGE_COUNT: Mapping[str, Any] = {"oneOf": [_COUNT, _TEXT]}
_SECONDS: Mapping[str, Any] = {"type": "number", "exclusiveMinimum": 0}
_AMOUNT: Mapping[str, Any] = {"type": "number", "minimum": 0, "maximum": MAX_AMOUNT}
_POSITIVE: Mapping[str, Any] = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_AMOUNT}
_CURRENCY: Mapping[str, Any] = {"type": "string", "pattern": "^[A-Z]{3}$"}
_VARIABLE: Mapping[str, Any] = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}
_TEXTS: Mapping[str, Any] = {"type": "array", "items": _TEXT}
_HEADER_NAMES: Mapping[str, Any] = {"pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"}
_NAMES: Mapping[str, Any] = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}


def _one_of(names: Iterable[str]) -> Mapping[str, Any]:
    return {"enum": [*names]}


def _map(values: Mapping[str, Any], **more: Any) -> Mapping[str, Any]:
    return {"type": "object", "additionalProperties": values, **more}


_AUTH: Mapping[str, Any] = {
    "anyOf": [
        {"enum": ["bearer", "raw", "x-goog-api-key", "x-api-key", "none"]},
        {"type": "string", "pattern": "^(header|query):."},
    ]
}
_SECRET_HEADER: Mapping[str, Any] = {
    "anyOf": [
        _VARIABLE,
        {
            "type": "object",
            "properties": {"env": _VARIABLE, "prefix": {"type": "string", "maxLength": 40}},
            "required": ["env"],
            "additionalProperties": False,
        },
    ]
}
_LOG_VALUE: Mapping[str, Any] = {"type": ["string", "integer"]}

_Key = tuple[Mapping[str, Any], str]
_GATEWAY: Mapping[str, _Key] = {
    "protocol": (_one_of(PROTOCOLS), "Wire format."),
    "base_url": (_TEXT, "Address of the API: with /v1 for openai and responses, without a version for the others."),
    "api_version": (_TEXT, "Version in the path of the protocol gemini."),
    "auth": (_AUTH, "Where the key goes: a scheme, header:NAME, query:NAME, or none."),
    "key_env": (_VARIABLE, "Name of the environment variable with the key; never the key itself."),
    "key_command": (
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        "Program and arguments that print a short-lived key, in place of key_env.",
    ),
    "headers": (_map({"type": "string"}, propertyNames=_HEADER_NAMES), "Sent with each request."),
    "secret_headers": (
        _map(_SECRET_HEADER, propertyNames=_HEADER_NAMES),
        "Headers whose values are in environment variables.",
    ),
    "query": (_map({"type": "string"}), "Added to every URL."),
    "proxy": (_TEXT, "Overrides HTTPS_PROXY; none = direct."),
    "ca_file": (_TEXT, "PEM file of a private certificate authority, relative to this file."),
    "allow_http": (_FLAG, "Allow plain http to a server in the local network."),
    "max_output_tokens_field": (_TEXT, "Field of the body for the limit of output tokens; protocol openai."),
    "system_role": (_one_of(SYSTEM_ROLES), "Role of the system text."),
    "path": (_TEXT, "Path of a generation below base_url; {model} stands for the model's name."),
    "seed_field": (_VARIABLE, "Field of the body for the seed."),
    "anthropic_version": ({"type": "string", "pattern": "^.{4}-.{2}-.{2}$"}, "Version of Anthropic's API, a date."),
    "replay": (_one_of(REPLAYS), "What of a model's turn goes back into the history."),
    "thinking_tags": (_TEXT, "Tags around thoughts in the text of a reply, e.g. <think>."),
    "unset": ({"type": "array", "items": _one_of(SETTING_NAMES)}, "Settings that are never sent."),
    "attempt_timeout": (_SECONDS, "Seconds from sending to the last byte; default 600."),
    "stream": (_FLAG, "Ask for streamed replies."),
    "currency": (_CURRENCY, "Currency of its bills."),
    "list_prices": (_FLAG, "It bills the provider's list price in USD."),
    "price_multiplier": (_POSITIVE, "Amount of currency billed for 1 USD of list price."),
    "aliases": (_map(_NAMES, minProperties=1), "Asked model = names under which the gateway may serve it."),
    "rpm": (_COUNT, "Requests per minute, per key and model."),
    "tpm": (_COUNT, "Tokens per minute, per key and model."),
    "tpm_counts": (_one_of(TPM_COUNTS), "What tpm counts."),
    "rpd": (_COUNT, "Requests per day, per key and model."),
    "rpd_resets": ({"type": "string", "pattern": "^[0-2].:[0-5]. "}, "When the day begins: 00:00 America/Los_Angeles."),
    "rate": (
        {"type": "array", "items": {"type": "string", "pattern": "/"}, "minItems": 1},
        'More windows, all of which hold: "10/10s".',
    ),
    "batches": (_FLAG, "It has the batch API of its protocol, for --batch."),
    "concurrency": (_COUNT, "Most requests in flight; the upper bound of -j."),
    "jitter": ({"type": "number", "minimum": 0}, "Variation of the network delay in seconds; default 1."),
}
"""Every key of a gateway or of a model of it, with its schema and its description."""
_RUN: Mapping[str, _Key] = {
    "models": (_TEXTS, "Targets, as MODEL@GATEWAY; replaced by -m and -g."),
    "variants": (_TEXTS, "Variants of the dialogues that every target is asked; none = as they are."),
    "repeats": (_COUNT, "Replay every dialogue this often; default 1."),
    "history": (_one_of(HISTORIES), "Source of the model's earlier turns; default live."),
    "concurrency": (_COUNT, "Requests in flight per target, as -j; default 16."),
    "max_attempts": (_COUNT, "Unpaid attempts per turn; default 5."),
    "attempt_timeout": (_SECONDS, "Seconds of one attempt; a gateway's own value overrides it."),
    "max_cost": (_TEXT, "Cost cap of a whole run, e.g. 5USD."),
    "max_tokens_total": (_LARGE_COUNT, "Cap on input and output tokens of a whole run, e.g. 2M."),
    "max_requests": (_LARGE_COUNT, "Cap on requests of a whole run, retries and judges included."),
}
_POOL: Mapping[str, _Key] = {
    "gateways": (
        {"type": "array", "items": _TEXT, "minItems": 2, "uniqueItems": True},
        "Its gateways, which differ in address, key and limits only.",
    )
}
_VARIANT: Mapping[str, _Key] = {
    "system": ({"type": "string"}, "Replaces the system text; an empty text removes it."),
    "system_file": (_TEXT, "File with the system text, relative to this file."),
    "prefix": ({"type": "string"}, "Put before the text of every user message."),
    "suffix": ({"type": "string"}, "Put after the text of every user message."),
}
_JUDGE: Mapping[str, _Key] = {"max_output_tokens": (_COUNT, "Most output tokens of one answer of the judge.")}
_TIERS: Mapping[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {key: _COUNT if key == "above" else _AMOUNT for key in TIER_KEYS},
        "required": ["above"],
        "additionalProperties": False,
    },
}
_ROW: Mapping[str, _Key] = {
    **{key: (_AMOUNT, f"Price of a million tokens: {key.replace('_', ' ')}.") for key in RATE_KEYS},
    "tiers": (_TIERS, "Other prices above a number of input tokens."),
    "currency": (_CURRENCY, "Default: the gateway's."),
    "valid_from": ({"type": "string"}, "The first day of these prices."),
    "batch": (
        {
            "type": "object",
            "properties": {**dict.fromkeys(RATE_KEYS, _AMOUNT), "tiers": _TIERS},
            "additionalProperties": False,
        },
        "Prices in batch jobs; omitted: half of the others.",
    ),
    "source": ({}, "Shown beside every cost."),
}
_LOG: Mapping[str, _Key] = {
    **{key: (_TEXT, f"Name of the column: {key.replace('_', ' ')}.") for key in COLUMN_KEYS},
    "time_zone": (_TEXT, "Zone of times without an offset; default UTC."),
    "amount_per_unit": (_POSITIVE, "How many units of the column amount are one unit of the currency."),
    "currency": (_CURRENCY, "Default: the gateway's."),
    "only": (
        _map({"anyOf": [_LOG_VALUE, {"type": "array", "items": _LOG_VALUE, "minItems": 1}]}, minProperties=1),
        "Column = values of the lines that are calls.",
    ),
    "gateway": (_NAMES, "Gateway of the log, or a list of them."),
    "optional": (
        {"type": "array", "items": _one_of(key for key in COLUMN_KEYS if key not in NEEDED_KEYS)},
        "Keys whose column may be missing from a file.",
    ),
}


def config_schema() -> dict[str, Any]:
    """Return the schema of `convbatch.toml`; days are text, as editors read TOML."""
    settings = {"settings": ({"$ref": "#/$defs/Settings"}, "Generation settings.")}
    models = {"models": (_map({"$ref": "#/$defs/Model"}), "Models by name or glob; the longest match wins.")}
    prices = {"$ref": "#/$defs/Prices"}
    top: Mapping[str, _Key] = {
        SCHEMA_KEY: ({"type": "string"}, "The JSON Schema of this file, for editors; nothing reads it."),
        "env_file": (_TEXT, "File of KEY=VALUE lines with keys, relative to this file; may be absent."),
        "run": ({"$ref": "#/$defs/Run"}, "Defaults of the options of `convbatch run`."),
        "gateways": (
            _map({"$ref": "#/$defs/Gateway"}, propertyNames={"pattern": f"^{GATEWAY_NAME.pattern}$"}),
            "Gateways; a table with a preset's name changes only the keys that it sets.",
        ),
        "pools": (
            _map(
                {**_table(_POOL, POOL_KEYS), "required": ["gateways"]},
                propertyNames={"pattern": f"^{GATEWAY_NAME.pattern}$"},
            ),
            "Several keys or endpoints as one gateway.",
        ),
        "variants": (
            _map(
                {**_table({**_VARIANT, **settings}, (*VARIANT_KEYS, "settings")), "minProperties": 1},
                propertyNames={"pattern": f"^{GATEWAY_NAME.pattern}$"},
            ),
            "Other wordings of the dialogues, for --variant.",
        ),
        "judge": (_table(_JUDGE, JUDGE_KEYS), "How a judge is asked."),
        "prices": (
            _map(_map({"anyOf": [prices, {"type": "array", "items": prices, "minItems": 1}]})),
            "Prices by gateway and model (or glob), per million tokens.",
        ),
        "bills": (_map({"$ref": "#/$defs/UsageLog"}), "Formats of usage logs, for `report --bill`."),
        "rates": (
            _map(_POSITIVE, propertyNames={"pattern": "^[A-Z]{3}/[A-Z]{3}$"}),
            'Exchange rates: "USD/CNY" = 7.1 means that 1 USD is 7.1 CNY.',
        ),
    }
    return {
        "$schema": DIALECT,
        "title": "convbatch.toml",
        "description": "The configuration of convbatch: gateways, limits, prices, and defaults of a run.",
        **_table(top, top),
        "$defs": {
            "Run": _table({**_RUN, **settings}, (*RUN_KEYS, "settings")),
            "Gateway": _table({**_GATEWAY, **models}, (*GATEWAY_KEYS, "models")),
            "Model": _table({**_GATEWAY, **settings}, (*MODEL_KEYS, "settings")),
            "Prices": {**_table(_ROW, ROW_KEYS), "required": ["input", "output"]},
            "UsageLog": _table(_LOG, USAGE_LOG_KEYS),
            "Settings": settings_schema(),
        },
    }


def _table(described: Mapping[str, _Key], keys: Iterable[str]) -> dict[str, Any]:
    """Return the schema of a table with these keys and no others."""
    properties = {key: {**described[key][0], "description": described[key][1]} for key in keys}
    return {"type": "object", "properties": properties, "additionalProperties": False}


SCHEMAS = {"dataset": dataset_schema, "config": config_schema}
"""What `convbatch schema` prints, by name."""


def json_schema(what: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a file that convbatch reads.

    >>> convbatch.json_schema("dataset")["$schema"]
    'https://json-schema.org/draft/2020-12/schema'

    Args:
        what: `dataset` or `config`.

    Raises:
        SetupError: It is neither.
    """
    if what not in SCHEMAS:
        raise SetupError(f"there is no schema of {what!r}", hint=did_you_mean(what, SCHEMAS))
    return SCHEMAS[what]()
