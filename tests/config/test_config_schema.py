"""The published JSON Schema of config files agrees with the loader: it refuses nothing that the loader accepts."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from jsonschema import Draft202012Validator

from convbatch.config.json_schema import LOADER_ONLY, config_schema
from convbatch.config.loader import TOP_KEYS, read_config
from convbatch.config.prices import ROW_KEYS
from convbatch.config.usage_logs import USAGE_LOG_KEYS
from convbatch.config.validators import GATEWAY_KEYS, MODEL_KEYS, RUN_KEYS
from convbatch.errors import InputError
from tests.conftest import Command, examples
from tests.support.mutated import mutated

ROOT = Path(__file__).parent.parent.parent
SCHEMA = Draft202012Validator(config_schema())
CONFIGS = [*ROOT.glob("configs/*.toml"), ROOT / "convbatch/cli/starter/convbatch.toml"]


def as_editors_read(value: Any) -> Any:
    """Return a TOML document as JSON: days are text."""
    if isinstance(value, dict):
        return {key: as_editors_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_editors_read(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def to_toml(value: Any) -> str:
    """Return a value of TOML; tables are inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {to_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    return json.dumps(value)


def problems_of(document: dict[str, Any]) -> list[str]:
    text = "\n".join(f"{json.dumps(key)} = {to_toml(value)}" for key, value in document.items())
    try:
        read_config(text, Path("c.toml"))
    except InputError as error:
        return [problem.what for problem in error.problems]
    return []


DOCUMENTS = [
    as_editors_read(tomllib.loads(path.read_text("utf-8")))
    for path in CONFIGS
    if path.name in ("every-key.toml", "demo.toml")
]
KEYS = sorted({*TOP_KEYS, *GATEWAY_KEYS, *RUN_KEYS, *ROW_KEYS, *USAGE_LOG_KEYS, "models", "settings", "x", "USD/EUR"})
# What the loader says of a document that only it refuses, by the sentence of LOADER_ONLY that tells of it.
MESSAGES = {
    LOADER_ONLY[0]: ("contains a key", "looks like a key"),
    LOADER_ONLY[1]: (
        "whole number", "must be a day", "valid integer", "JSON cannot represent", "number of input tokens",
        "list of texts", "list of names",
    ),
    LOADER_ONLY[2]: (
        "not a URL", "must be a URL", "endpoint", "not a path", "must be a path", "a query or a fragment",
        "header name", "auth scheme", "placeholder", "time zone", "a time and a zone", "opening tag",
        "cannot be read", "contains no certificate", "plain ASCII", "is set by convbatch", "given twice",
        "amount of money", "window of the form", "must be a text", "is not a date", "cannot carry a key",
        "environment variable", "name of a column", "must be a name", "program and its arguments",
        "a word that is sent", "must end with a blank", "model name", "pattern", "currency code",
        "needs a name or a glob",
    ),
    LOADER_ONLY[3]: (
        "has no protocol", "has no base_url", "does not apply", "are both set", "has no key", "no key is sent",
        "unencrypted", "base_url ends", "carries the key", "in headers and in secret_headers", "without currency",
        "list prices are in USD",
    ),
    LOADER_ONLY[4]: ("unknown gateway", "has no currency", "without amount", "usage log format .* has no"),
    LOADER_ONLY[5]: ("is the name of a gateway", "means the dialogues as they are", "and a pool has gateways"),
    LOADER_ONLY[6]: (
        "from the same day", "same number of tokens", "both directions", "two currencies", "and its table does not",
        "changes no price", "the rate ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_repository_is_valid(path: Path) -> None:
    document = as_editors_read(tomllib.loads(path.read_text("utf-8")))
    assert [error.message for error in SCHEMA.iter_errors(document)] == []


@hypothesis_settings(max_examples=examples(1_200))
@given(mutated(DOCUMENTS, KEYS))
def test_the_loader_refuses_what_the_schema_refuses(document: Any) -> None:
    if not isinstance(document, dict) or "null" in json.dumps(document):
        return  # TOML has neither
    told = problems_of(document)
    if not SCHEMA.is_valid(document):
        assert told, "the schema refuses what the loader accepts"
    for what in told if SCHEMA.is_valid(document) else ():
        assert any(re.search(pattern, what) for patterns in MESSAGES.values() for pattern in patterns), (
            "a difference that LOADER_ONLY lacks"
        )


def test_every_key_has_a_description_and_every_table_all_keys_of_the_loader() -> None:
    schema = config_schema()
    tables = {"": schema, **schema["$defs"]}
    for name, table in tables.items():
        for key, form in table["properties"].items():
            assert form.get("description"), f"{name}.{key}"
    assert {*tables[""]["properties"]} == {*TOP_KEYS}
    assert {*tables["Gateway"]["properties"]} == {*GATEWAY_KEYS, "models"}
    assert {*tables["Model"]["properties"]} == {*MODEL_KEYS, "settings"}


def test_a_schema_at_the_top_of_a_config_is_accepted(convbatch: Command, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('"$schema" = "./convbatch.schema.json"\n[run]\nmodels = ["sim-good@simulator"]\n')
    (tmp_path / "d.jsonl").write_text('{"turns": [{"user": "x"}]}\n')
    assert convbatch("run", "d.jsonl", "-c", "c.toml", "--dry-run").code == 0
    (tmp_path / "c.toml").write_text('"$schema" = 1\n')
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "--dry-run")
    assert done.code == 2
    assert "c.toml:1: $schema is not the address of a JSON Schema" in done.err
