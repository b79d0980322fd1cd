"""Presets, config files, targets and settings, and the errors of wrong files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.config.credentials import Credentials, variables_of
from convbatch.config.gateways import (
    NO_OVERRIDES,
    Config,
    Gateway,
    Limits,
    Overrides,
    RateLimit,
    SecretHeader,
    Target,
    gateway_from_plain,
    gateway_to_plain,
    max_in_flight,
    merge_limits,
    target_from_manifest,
    target_to_manifest,
)
from convbatch.config.loader import load_config, presets, read_config
from convbatch.config.targets import parse_params, resolve_targets, split_target
from convbatch.config.toml_positions import TomlPositions, item
from convbatch.dialogue import NO_SETTINGS, SETTING_NAMES, Message, Settings, effective_settings, text_part
from convbatch.errors import ConvbatchError, InputError, SetupError
from convbatch.journal.manifest import ManifestTarget
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask
from tests.support.tables import each

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = Config(gateways=presets())


def config_of(text: str, path: Path = Path("demo.toml")) -> Config:
    return read_config(text, path)


def gateway_of(text: str, name: str, model: str = "m") -> Gateway:
    config = config_of(text)
    return config.gateways[name].for_model(model, run=config.run)


def names(targets: tuple[Target, ...]) -> list[str]:
    return [target.name for target in targets]


def error_text(text: str) -> str:
    with pytest.raises(InputError) as caught:
        config_of(text)
    return str(caught.value)


# --- presets


def test_only_gateways_whose_protocol_is_built_are_presets() -> None:
    assert set(presets()) == {
        "google", "dmxapi", "dmxapi-openai", "dmxapi-com", "dmxapi-com-openai", "openai", "openrouter", "deepseek",
        "dashscope", "siliconflow", "siliconflow-com", "zhipu", "zai", "moonshot", "moonshot-ai", "ark", "qianfan",
        "hunyuan", "minimax", "minimax-io", "new-api", "local", "simulator", "openai-responses", "dmxapi-responses",
        "dmxapi-com-responses", "anthropic", "dmxapi-anthropic", "dmxapi-com-anthropic",
    }  # fmt: skip
    assert {table.for_model(None).protocol for table in presets().values()} <= set(PROTOCOLS)


def test_presets_carry_no_invented_limits() -> None:
    for table in presets().values():
        limits = table.for_model("any").limits
        assert (limits.rpm, limits.tpm, limits.rpd, limits.rates, limits.concurrency) == (None, None, None, (), None)


@each(
    ("name", "base_url", "auth", "key_env", "tpm_counts", "resets"),
    [
        ("google", "https://generativelanguage.googleapis.com", "x-goog-api-key", "GEMINI_API_KEY", "input",
         "00:00 America/Los_Angeles"),
        ("dmxapi", "https://www.dmxapi.cn", "raw", "DMXAPI_API_KEY", "input", "00:00 UTC"),
        ("dmxapi-com", "https://www.dmxapi.com", "raw", "DMXAPI_COM_API_KEY", "input", "00:00 UTC"),
        ("dmxapi-com-openai", "https://www.dmxapi.com/v1", "bearer", "DMXAPI_COM_API_KEY", "input+max_output",
         "00:00 UTC"),
        ("openai", "https://api.openai.com/v1", "bearer", "OPENAI_API_KEY", "input+max_output", "00:00 UTC"),
        ("openai-responses", "https://api.openai.com/v1", "bearer", "OPENAI_API_KEY", "input+max_output", "00:00 UTC"),
        ("dmxapi-com-responses", "https://www.dmxapi.com/v1", "bearer", "DMXAPI_COM_API_KEY", "input+max_output",
         "00:00 UTC"),
        ("anthropic", "https://api.anthropic.com", "x-api-key", "ANTHROPIC_API_KEY", "uncached_input", "00:00 UTC"),
        ("dmxapi-anthropic", "https://www.dmxapi.cn", "x-api-key", "DMXAPI_API_KEY", "uncached_input", "00:00 UTC"),
        ("dmxapi-com-anthropic", "https://www.dmxapi.com", "x-api-key", "DMXAPI_COM_API_KEY", "uncached_input",
         "00:00 UTC"),
        ("local", "http://127.0.0.1:8000/v1", "none", None, "input+max_output", "00:00 UTC"),
        ("zhipu", "https://open.bigmodel.cn/api/paas/v4", "bearer", "ZHIPUAI_API_KEY", "input+max_output", "00:00 UTC"),
        ("ark", "https://ark.cn-beijing.volces.com/api/v3", "bearer", "ARK_API_KEY", "input+max_output", "00:00 UTC"),
        ("new-api", "http://127.0.0.1:3000/v1", "bearer", "NEW_API_KEY", "input+max_output", "00:00 UTC"),
        ("simulator", "simulator:", "none", None, "input", "00:00 UTC"),
    ],
)  # fmt: skip
def test_a_preset_has_its_endpoint_and_authentication(
    name: str, base_url: str, auth: str, key_env: str | None, tpm_counts: str, resets: str
) -> None:
    gateway = presets()[name].for_model("any")
    assert (gateway.base_url, gateway.auth, gateway.key_env) == (base_url, auth, key_env)
    assert (gateway.limits.tpm_counts, gateway.limits.rpd_resets) == (tpm_counts, resets)


def test_the_presets_file_ships_in_the_package_and_is_plain_toml() -> None:
    text = resources.files("convbatch.config").joinpath("presets.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(text)["gateways"]) == set(presets())


def test_openai_requests_use_the_newer_name_of_the_output_limit() -> None:
    assert presets()["openai"].for_model("gpt").max_output_tokens_field == "max_completion_tokens"
    assert presets()["deepseek"].for_model("x").max_output_tokens_field is None


def test_no_two_sites_share_a_key_variable_unless_they_are_one_site() -> None:
    hosts: dict[str, set[str]] = {}
    for table in presets().values():
        gateway = table.for_model(None)
        if gateway.key_env is not None:
            hosts.setdefault(gateway.key_env, set()).add(gateway.base_url.split("/")[2])
    assert {variable: found for variable, found in hosts.items() if len(found) > 1} == {}


# --- overrides in a config file


def test_a_table_with_a_presets_name_changes_only_what_it_sets() -> None:
    gateway = gateway_of('[gateways.google]\nrpm = 60\nrate = ["10/10s", "5/2m", "7/h"]\njitter = 0.2\n', "google")
    assert gateway.base_url == "https://generativelanguage.googleapis.com"
    assert gateway.limits.rpm == 60
    assert gateway.limits.rates == (
        RateLimit(count=10, window_s=10.0),
        RateLimit(count=5, window_s=120.0),
        RateLimit(count=7, window_s=3600.0),
    )
    assert gateway.limits.jitter_s == 0.2
    assert gateway.limits.rpd_resets == "00:00 America/Los_Angeles"


OWN = '[gateways.lab]\nprotocol = "openai"\nbase_url = "HTTPS://Lab.Example:8443/v1/"\nkey_env = "LAB_KEY"\n'


def test_a_user_defined_gateway_needs_protocol_and_base_url_and_gets_defaults() -> None:
    gateway = gateway_of(OWN, "lab")
    assert (gateway.base_url, gateway.auth) == ("https://lab.example:8443/v1", "bearer")
    assert gateway.limits.tpm_counts == "input+max_output"
    assert "has no protocol and no base_url" in error_text('[gateways.lab]\nkey_env = "X"\n')


def test_a_command_replaces_the_variable_of_a_preset_and_its_program_is_found_beside_the_config() -> None:
    config = config_of('[gateways.google]\nkey_command = ["./token.sh", "./x"]\n', Path("configs/demo.toml"))
    gateway = config.gateways["google"].for_model("m")
    assert gateway.key_env is None
    assert gateway.key_command == (str(Path("configs/token.sh").absolute()), "./x")
    assert gateway.key_origin == "configs/demo.toml:2"
    assert gateway_of('[gateways.google]\nkey_command = ["gcloud", "a"]\n', "google").key_command == ("gcloud", "a")


def test_a_changed_protocol_drops_keys_of_the_old_one() -> None:
    text = '[gateways.dmxapi.models."claude*"]\nprotocol = "openai"\nbase_url = "https://www.dmxapi.cn/v1"\n'
    config = config_of(text)
    changed = config.gateways["dmxapi"].for_model("claude-x")
    kept = config.gateways["dmxapi"].for_model("gemini-x")
    assert (changed.protocol, changed.api_version, changed.limits.tpm_counts) == ("openai", None, "input+max_output")
    assert (kept.protocol, kept.api_version, kept.limits.tpm_counts) == ("gemini", "v1beta", "input")


def test_a_path_does_not_outlive_another_protocol_or_base_url() -> None:
    text = OWN + 'path = "v2/chat"\nseed_field = "random_seed"\n[gateways.lab.models."other*"]\n'
    assert gateway_of(text + "rpm = 5\n", "lab", "other").path == "v2/chat"
    moved = gateway_of(text + 'base_url = "https://h"\n', "lab", "other")
    assert (moved.path, moved.seed_field) == (None, "random_seed")
    assert gateway_of(text + 'base_url = "https://h"\npath = "/v3/chat"\n', "lab", "other").path == "v3/chat"
    changed = gateway_of(text + 'protocol = "gemini"\nbase_url = "https://h"\n', "lab", "other")
    assert (changed.path, changed.seed_field) == (None, None)


def test_aliases_of_model_tables_add_to_those_of_the_gateway() -> None:
    text = 'aliases = { a = "b", c = ["d", "e*"] }\n[gateways.lab.models."prod*"]\naliases = { prod = "f", a = "g" }\n'
    config = config_of(OWN + text)
    lab = config.gateways["lab"]
    assert lab.for_model("m").aliases == {"a": ("b",), "c": ("d", "e*")}
    assert lab.for_model("prod").aliases == {"a": ("g",), "c": ("d", "e*"), "prod": ("f",)}


GLOBS = """
[gateways.google]
rpm = 100
rpd = 9
[gateways.google.models."gemini-2.5-pro*"]
rpm = 5
[gateways.google.models."gemini-*"]
rpm = 50
tpm = 1000
settings = { temperature = 1, seed = 3 }
[gateways.google.models."gemini-2.5-pro-exp"]
settings = { temperature = 0.5 }
[run.settings]
top_p = 0.5
seed = 1
"""


@each(
    ("model", "rpm", "tpm", "settings"),
    [
        ("gemma-3", 100, None, {"top_p": 0.5, "seed": 1}),
        ("gemini-2.5-flash", 50, 1000, {"temperature": 1, "top_p": 0.5, "seed": 3}),
        ("gemini-2.5-pro-exp", 5, 1000, {"temperature": 0.5, "top_p": 0.5, "seed": 3}),
        ("Gemini-2.5-pro", 100, None, {"top_p": 0.5, "seed": 1}),
    ],
)
def test_the_longest_glob_wins_key_by_key(model: str, rpm: int, tpm: int | None, settings: dict[str, Any]) -> None:
    gateway = gateway_of(GLOBS, "google", model)
    assert (gateway.limits.rpm, gateway.limits.tpm, gateway.limits.rpd) == (rpm, tpm, 9)
    assert gateway.settings.to_plain() == settings


@each(
    ("text", "seconds"),
    [
        ("", 600.0),
        ("[run]\nattempt_timeout = 90\n", 90.0),
        ("[run]\nattempt_timeout = 90\n[gateways.google]\nattempt_timeout = 30\n", 30.0),
        ('[gateways.google]\nattempt_timeout = 30\n[gateways.google.models."m*"]\nattempt_timeout = 5\n', 5.0),
    ],
)
def test_the_most_specific_attempt_timeout_applies(text: str, seconds: float) -> None:
    assert gateway_of(text, "google").attempt_timeout_s == seconds


def test_the_run_table_sets_defaults_of_options() -> None:
    run = config_of('[run]\nrepeats = 3\nhistory = "last"\nconcurrency = 8\nmax_attempts = 2\n').run
    assert (run.repeats, run.history, run.concurrency, run.max_attempts) == (3, "last", 8, 2)


def test_a_bom_and_windows_line_endings_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "convbatch.toml"
    path.write_bytes("\ufeff[gateways.google]\r\nrpm = 7\r\nrpmm = 8\r\n".encode())
    with pytest.raises(InputError, match=r"convbatch\.toml:3: unknown key 'rpmm'"):
        load_config(path)


def test_the_config_of_the_folder_is_found_and_a_named_one_takes_precedence(tmp_path: Path) -> None:
    assert load_config(folder=tmp_path).path is None
    (tmp_path / "convbatch.toml").write_text("[gateways.google]\nrpm = 7\n")
    (tmp_path / "other.toml").write_text("[gateways.google]\nrpm = 8\n")
    assert load_config(folder=tmp_path).gateways["google"].for_model("m").limits.rpm == 7
    assert load_config(tmp_path / "other.toml", folder=tmp_path).gateways["google"].for_model("m").limits.rpm == 8


# --- errors of wrong files

WRONG: list[tuple[str, str, int, str]] = [
    ("protocol", '[gateways.google]\nprotocol = "gemni"\n', 2,
     "unknown protocol 'gemni'\n  hint: did you mean 'gemini'"),
    ("version of Anthropic", '[gateways.anthropic]\nanthropic_version = "2"\n', 2, 'anthropic_version = "2023-06-01"'),
    ("date of TOML", "[gateways.anthropic]\nanthropic_version = 2023-06-01\n", 2, "is not a date in quotation marks"),
    ("unknown key", "[gateways.google]\nrpmm = 1\n", 2,
     "unknown key 'rpmm' in [gateways.google]\n  hint: did you mean 'rpm'"),
    ("unknown table", "[gatways.google]\n", 1, "unknown key 'gatways' in the file\n  hint: did you mean 'gateways'"),
    ("unknown in model", '[gateways.google.models."g*"]\nheaders = {}\n', 2, "unknown key 'headers'"),
    ("unknown in run", "[run]\nrepeat = 3\n", 2, "did you mean 'repeats'"),
    ("not built", '[gateways.google]\njudge = "USD"\n', 2, "'judge' is not built in this version"),
    ("unknown in judge", "\n[judge]\nmax_tokens = 9\n", 3, "did you mean 'max_output_tokens'"),
    ("judge limit", "[judge]\nmax_output_tokens = 0\n", 2, "max_output_tokens must be a whole number of at least 1"),
    ("judge no table", 'judge = "m@google"\n', 1, "judge must be a table\n  hint: write [judge]"),
    ("gateway settings", "[gateways.google.settings]\ntop_k = 1\n", 1, '[gateways.google.models."*".settings]'),
    ("unknown setting", "[run.settings]\ntemprature = 1\n", 2, "did you mean 'temperature'"),
    ("wrong setting", '[run.settings]\n\ntemperature = "hot"\n', 3, "temperature should be a valid number"),
    ("setting range", "[run.settings]\ntop_p = 2\n", 2, "top_p should be less than or equal to 1"),
    ("inline setting", "[run]\nsettings = { seed = 1.5 }\n", 2, "seed should be a valid integer"),
    ("nan", "[run.settings]\ntemperature = nan\n", 2, "JSON cannot represent"),
    ("date", "[run.settings.extra]\nday = 2025-12-26\n", 2, "JSON cannot represent"),
    ("negative", "[gateways.google]\nrpm = -1\n", 2, "rpm must be a whole number of at least 1\n  found: -1"),
    ("zero", "[gateways.google]\ntpm = 0\n", 2, "tpm must be a whole number"),
    ("bool as number", "[gateways.google]\nrpd = true\n", 2, "found: true"),
    ("text as number", '[gateways.google]\nconcurrency = "8"\n', 2, "found: '8'"),
    ("no seconds", "[run]\nattempt_timeout = 0\n", 2, "attempt_timeout must be a number of seconds, more than 0"),
    ("infinite", "[run]\nattempt_timeout = inf\n", 2, "attempt_timeout"),
    ("counts", '[gateways.google]\ntpm_counts = "output"\n', 2, "unknown tpm_counts 'output'"),
    ("rate form", '[gateways.google]\nrate = [\n  "10/10s",\n  "10 per s",\n]\n', 2, "COUNT/WINDOW"),
    ("rate zero", '[gateways.google]\nrate = ["0/1s"]\n', 2, "found: '0/1s'"),
    ("rate no list", '[gateways.google]\nrate = "10/1s"\n', 2, "rate must be a list"),
    ("zone", '[gateways.google]\nrpd_resets = "00:00 America/Los_Angles"\n', 2, "did you mean 'America/Los_Angeles'"),
    ("zone path", '[gateways.google]\nrpd_resets = "00:00 ../../etc/passwd"\n', 2, "unknown time zone"),
    ("zone folder", '[gateways.google]\nrpd_resets = "00:00 America"\n', 2, "unknown time zone"),
    ("clock", '[gateways.google]\nrpd_resets = "24:00 UTC"\n', 2, "must be a time and a zone"),
    ("auth", '[gateways.google]\nauth = "bearrer"\n', 2,
     "unknown auth scheme 'bearrer'\n  hint: did you mean 'bearer'"),
    ("auth header", '[gateways.google]\nauth = "header:bad name"\n', 2, "unknown auth scheme"),
    ("auth host", '[gateways.google]\nauth = "header:Host"\n', 2, "cannot carry a key"),
    ("auth twice", '[gateways.google]\nheaders = { X-Goog-Api-Key = "" }\n', 2, "carries the key"),
    ("query twice", '[gateways.google]\nauth = "query:k"\nquery = { k = "v" }\n', 3, "query sets k"),
    ("key_env and none", '[gateways.google]\nauth = "none"\nkey_env = "K"\n', 3, 'key_env with auth = "none"'),
    ("key_command and none", '[gateways.google]\nauth = "none"\nkey_command = ["a"]\n', 3, "key_command with auth"),
    ("key_command and key_env", '[gateways.google]\nkey_env = "K"\nkey_command = ["a"]\n', 3, "are both set"),
    ("key_command text", '[gateways.google]\nkey_command = "gcloud auth"\n', 2, "no shell reads it"),
    ("key_command is the key", '[gateways.new]\nprotocol = "openai"\nbase_url = "https://h/v1"\nkey_command = "a"\n', 4,
     "no shell reads it"),
    ("key_command empty", "[gateways.google]\nkey_command = []\n", 2, "must be a list of a program and its arguments"),
    ("key_command items", '[gateways.google]\nkey_command = ["a", 1]\n', 2, "must be a list of a program"),
    ("key_command of a model", '[gateways.google.models."*"]\nkey_command = ["a"]\n', 2, "unknown key 'key_command'"),
    ("no key_env", '[gateways.x]\nprotocol = "openai"\nbase_url = "https://h/v1"\n', 1, "key_env is missing"),
    ("no scheme", '[gateways.google]\nbase_url = "example.com"\n', 2, "base_url is not a URL\n  found: 'example.com'"),
    ("no host", '[gateways.google]\nbase_url = "https://"\n', 2, "base_url is not a URL"),
    ("other scheme", '[gateways.google]\nbase_url = "ftp://h"\n', 2, "base_url is not a URL"),
    ("bad port", '[gateways.google]\nbase_url = "https://h:99999"\n', 2, "base_url is not a URL"),
    ("blank in URL", '[gateways.google]\nbase_url = "https://h/a b"\n', 2, "base_url is not a URL"),
    ("fragment", '[gateways.google]\nbase_url = "https://h/#x"\n', 2, "a query or a fragment"),
    ("endpoint", '[gateways.openai]\nbase_url = "https://h/v1/chat/completions"\n', 2, 'write base_url = "https://h/v1"'),
    ("generate", '[gateways.google]\nbase_url = "https://h/v1/models/m:generateContent"\n', 2, '"https://h/v1"'),
    ("version", '[gateways.google]\nbase_url = "https://h/v1"\n', 2, 'base_url = "https://h" and api_version = "v1"'),
    ("plain http", '[gateways.google]\nbase_url = "http://10.0.0.7:8000"\n', 2, "allow_http = true"),
    ("http for a model", '[gateways.google.models."*"]\nbase_url = "http://h"\n', 2, "plain http to h"),
    ("setting under run", "[run]\ntemperature = 0\n", 2, "it belongs to [run.settings]"),
    ("setting at the top", 'topP = 1\n', 1, "did you mean 'top_p', in [run.settings]?"),
    ("setting of a provider", "[run]\nmax_tokens = 5\n", 2, "did you mean 'max_output_tokens', in [run.settings]?"),
    ("setting of a gateway", "[gateways.openai]\nseed = 0\n", 2, 'belongs to [gateways.openai.models."*".settings]'),
    ("no currency", '[gateways.openai]\ncurrency = "RMB"\n', 2, 'did you mean currency = "CNY"?'),
    ("not its protocol", '[gateways.openai]\napi_version = "v1"\n', 2, "api_version does not apply"),
    ("not its field", '[gateways.google]\nmax_output_tokens_field = "n"\n', 2, "belongs to 'openai'"),
    ("system_role", '[gateways.openai]\nsystem_role = "user_"\n', 2,
     "unknown system_role 'user_'\n  hint: did you mean 'user'? known: developer, system, user"),
    ("developer at gemini", '[gateways.google.models."*"]\nsystem_role = "developer"\n', 2,
     "system_role 'developer' does not apply to the protocol 'gemini'\n  hint: known there: system, user"),
    ("path host", '[gateways.openai]\npath = "https://h/v2"\n', 2, "path must be a path below base_url, without a"),
    ("path slashes", '[gateways.openai]\npath = "//h/v2"\n', 2, "path must be a path below base_url, without a host"),
    ("path query", '[gateways.openai]\npath = "v2?a=b"\n', 2, "path has a query or a fragment\n  found: 'v2?a=b'"),
    ("path up", '[gateways.openai.models."*"]\npath = "../v2"\n', 2, "path is not a path"),
    ("path blank", '[gateways.openai]\npath = "v2/chat completions"\n', 2, "path is not a path"),
    ("path root", '[gateways.openai]\npath = "/"\n', 2, "path is not a path"),
    ("path place", '[gateways.openai]\npath = "v2/{name}"\n', 2, "path has a placeholder other than {model}"),
    ("seed_field", '[gateways.openai]\nseed_field = "random seed"\n', 2, 'write seed_field = "random_seed"'),
    ("replay", '[gateways.openai]\nreplay = "contents"\n', 2, "did you mean 'content'? known: content, exact"),
    ("tags", '[gateways.openai]\nthinking_tags = "think"\n', 2, 'write the opening tag, thinking_tags = "<think>"'),
    ("closing tag", '[gateways.google]\nthinking_tags = "</think>"\n', 2, "must be an opening tag, or both tags"),
    ("tags in one", '[gateways.google]\nthinking_tags = "<a></a>"\n', 2, "must be an opening tag, or both tags"),
    ("unset", '[gateways.openai]\nunset = ["temprature"]\n', 2,
     "unknown setting 'temprature' in unset\n  hint: did you mean 'temperature'? known: cache, extra, include"),
    ("unset for a model", '[gateways.openai.models."o*"]\nunset = "seed"\n', 2, "unset must be a list of settings"),
    ("no CA file", '[gateways.google]\nca_file = "nowhere.pem"\n', 2, "ca_file cannot be read"),
    ("CA file of no user", '[gateways.google]\nca_file = "~nobody9/ca.pem"\n', 2, "ca_file cannot be read"),
    ("own header", '[gateways.google]\nheaders = { Host = "h" }\n', 2, "the header Host is set by convbatch"),
    ("header name", '[gateways.google]\nheaders = { "a b" = "h" }\n', 2, "not a header name"),
    ("header split", '[gateways.google]\nheaders = { A = "h\\r\\nB: c" }\n', 2, "headers.A must be a text"),
    ("headers", "[gateways.google]\nheaders = 3\n", 2, "headers must be a table"),
    ("secret headers", "[gateways.google]\nsecret_headers = 3\n", 2, "secret_headers must be a table"),
    ("secret header", "[gateways.google]\nsecret_headers = { A = 3 }\n", 2, "must be the name of an environment"),
    ("secret key", '[gateways.google]\nsecret_headers = { A = { evn = "K" } }\n', 2, "did you mean 'env'"),
    ("secret no env", '[gateways.google]\nsecret_headers = { A = { prefix = "Basic " } }\n', 2, "environment variable"),
    ("secret prefix", '[gateways.google]\nsecret_headers = { A = { env = "K", prefix = "Basic" } }\n', 2,
     'write prefix = "Basic "'),
    ("secret prefix form", '[gateways.google]\nsecret_headers = { A = { env = "K", prefix = 1 } }\n', 2, "a word"),
    ("secret name", '[gateways.google]\nsecret_headers = { "a b" = "K" }\n', 2, "not a header name"),
    ("secret twice", '[gateways.google]\nheaders = { a = "1" }\nsecret_headers = { A = "K" }\n', 3,
     "is in headers and in secret_headers"),
    ("secret is the key", '[gateways.google]\nsecret_headers = { X-Goog-Api-Key = "K" }\n', 2, "carries the key"),
    ("no aliases", '[gateways.google]\naliases = "m"\n', 2, "aliases must be a table of model names"),
    ("alias", '[gateways.google.models."*"]\naliases = { prod = ["m", 3] }\n', 2, "must be a model name or a list"),
    ("no served name", "[gateways.google]\naliases = { prod = [] }\n", 2, "aliases.'prod' must be a model name"),
    ("aliases at the run", '[run]\naliases = { a = "b" }\n', 2, "unknown key 'aliases'"),
    ("gateway name", '[gateways."a@b"]\nprotocol = "openai"\n', 1, "cannot be a gateway's name"),
    ("models no list", '[run]\nmodels = "m@google"\n', 2, "models must be a list"),
    ("history", '[run]\nhistory = "liv"\n', 2, "unknown history 'liv'\n  hint: did you mean 'live'"),
    ("no table", "gateways = 3\n", 1, "gateways must be a table"),
    ("no gateway table", "[gateways]\ngoogle = 3\n", 2, "gateways.google must be a table"),
    ("no run table", "run = 3\n", 1, "run must be a table"),
    ("syntax", "[gateways.google]\nrpm = \n", 2, "not TOML: Invalid value"),
    ("unquoted", "[gateways.google]\nauth = raw\n", 2, "not TOML"),
    ("open string", '[gateways.google]\nauth = "raw\n', 2, "not TOML"),
    ("key twice", "[gateways.google]\nrpm = 1\nrpm = 2\n", 3, "not TOML"),
]  # fmt: skip


@each(("text", "line", "words"), [case[1:] for case in WRONG])
def test_a_wrong_file_is_reported_with_problem_place_and_hint(text: str, line: int, words: str) -> None:
    error = error_text(text)
    assert error.startswith(f"demo.toml:{line}: ")
    assert words in error
    assert "hint: " in error


def test_all_problems_of_a_file_are_reported_in_order() -> None:
    error = error_text('[run]\nhistory = "x"\n[gateways.google]\nrpm = 0\nauth = "y"\n[gateways.openai]\nnew = 1\n')
    assert [line.split(": ")[0] for line in error.splitlines() if line.startswith("demo")] == [
        "demo.toml:2", "demo.toml:4", "demo.toml:5", "demo.toml:7",
    ]  # fmt: skip


@pytest.mark.parametrize("make", ["missing", "folder", "latin-1"])
def test_an_unreadable_file_is_named(tmp_path: Path, make: str) -> None:
    path = tmp_path / "my.toml"
    if make == "folder":
        path.mkdir()
    elif make == "latin-1":
        path.write_bytes(b"[run]\n# caf\xe9\n")
    with pytest.raises(InputError, match=r"my\.toml") as caught:
        load_config(path)
    assert "hint" in str(caught.value)
    if make == "latin-1":
        assert "my.toml:2: the config file is not UTF-8" in str(caught.value)
        assert f"iconv -f CP1252 -t UTF-8 {path} > my.utf8.toml" in str(caught.value)


# Self-signed, made for this test: openssl req -x509 -newkey ed25519 -nodes -subj /CN=test
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBNDCB56ADAgECAhRmeK1l26zcSjI/ycyaIkHjig/SXDAFBgMrZXAwDzENMAsG
A1UEAwwEdGVzdDAgFw0yNjExMjIwMjI3MzFaGA8yMTI2MTAyOTAyMjczMVowDzEN
MAsGA1UEAwwEdGVzdDAqMAUGAytlcAMhAHFYyzqpFmMGvSqu8s6nLbWXit++5SQS
3vHa3jbvKNzBo1MwUTAdBgNVHQ4EFgQUEwb1nQ1b/iD9mOS4fIGo9bqIj5kwHwYD
VR0jBBgwFoAUEwb1nQ1b/iD9mOS4fIGo9bqIj5kwDwYDVR0TAQH/BAUwAwEB/zAF
BgMrZXADQQCEyB2QqiOEC9v/N3Y3QR5iNLuQ0B3vIuOEiISZOi5EMAJY0r/VJ0OF
XOaCDJw2p2YAMFlnxLCzdVYECsbhzK4G
-----END CERTIFICATE-----
"""


def test_a_ca_file_without_certificates_is_refused_and_a_valid_one_beside_the_config_is_found(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    path = tmp_path / "convbatch.toml"
    path.write_text('[gateways.google]\nca_file = "empty.pem"\n')
    with pytest.raises(InputError, match="contains no certificate"):
        load_config(path)
    (tmp_path / "good.pem").write_text(CERTIFICATE)
    path.write_text('[gateways.google]\nca_file = "good.pem"\n')
    assert load_config(path).gateways["google"].for_model("m").ca_file == str(tmp_path / "good.pem")


VALUE = "sk-Zq8" + "x7Yw" * 8
SECRETS = [
    f'[gateways.google]\nkey = "{VALUE}"\n',
    '[gateways.google]\napi_key = "short-hidden"\n',
    '[gateways.google]\nheaders = { Authorization = "short-hidden" }\n',
    '[gateways.google.headers]\nx-goog-api-key = "short-hidden"\n',
    '[gateways.google.headers]\nAPI-KEY = "short-hidden"\n',
    '[gateways.google.headers]\nX-Auth-Token = "short-hidden"\n',
    '[gateways.google]\nquery = { key = "short-hidden" }\n',
    '[gateways.google]\nquery.access_token = "short-hidden"\n',
    f'[gateways.google]\nkey_env = "{VALUE}"\n',
    '[gateways.google]\nkey_env = "a1b2c3d4e5f6a7b8c9d0short"\n',
    f'[gateways.google]\nauth = "{VALUE}"\n',
    '[gateways.google]\nauth = "0123456789abcdefshort-hidden"\n',
    f'[gateways.google]\nbase_url = "https://h/{VALUE}"\n',
    '[gateways.google]\nbase_url = "https://user:short-hidden@h/"\n',
    '[gateways.google]\nbase_url = "https://h/?key=short-hidden"\n',
    '[gateways.google]\nbase_url = "htps://h/?key=short-hidden"\n',
    f'[gateways.google]\nsecret_headers = {{ X-A = "{VALUE}" }}\n',
    f'[gateways.google]\nkey_command = ["echo", "{VALUE}"]\n',
    '[gateways.google]\nsecret_headers = { X-Api-Key = "a1b2c3d4e5f6a7b8c9d0short" }\n',
    f'[gateways.google]\nsecret_headers = {{ X-A = {{ env = "K", prefix = "{VALUE} " }} }}\n',
    '[gateways.google]\nproxy = "http://user:short-hidden@proxy:3128"\n',
    '[gateways.google]\nheaders = { X-A = "Bearer short-hidden" }\n',
    f'[run.settings.extra.metadata]\nnote = "use {VALUE}"\n',
    '[run.settings]\nextra = { a = ["AIza0123456789abcdefghijklmnop"] }\n',
    'api_key = "short-hidden"\n',
    '[gateways.google.models."g*"]\ntoken = "short-hidden"\n',
]


@each("text", SECRETS)
def test_a_literal_key_is_refused_and_never_shown(text: str) -> None:
    error = error_text(text)
    assert error.count("demo.toml:") == 1
    assert "short" not in error
    assert VALUE[:12] not in error
    assert "AIza" not in error


def test_a_literal_key_error_points_to_key_env_and_auth() -> None:
    error = error_text('[gateways.google.headers]\nx-api-key = "v"\n')
    assert "demo.toml:2: the header 'x-api-key' contains a key" in error
    assert 'key_env = "NAME", with auth =' in error


def test_request_fields_with_key_like_names_are_accepted() -> None:
    settings = config_of('[run.settings.extra]\nprompt_cache_key = "team-a"\n').run.settings
    assert settings.extra == {"prompt_cache_key": "team-a"}


# --- lines

AWKWARD = '''# [gateways.fake]
title.a."b c" = 1
[ gateways . "my gate" ]   # comment with = and [
text = """
rpm = 1
[gateways.other]
"""
list = [
  "rpm = 3", # ]
  ["tpm"],
  { deep = 1 },
  ["gateways"]
]
rpm = 5
[[tables]]
x = 'a # b'
y = 2
[[tables.inner]]
z = 3
[[tables]]
y = 4
inline = [
  { a = 1 }, # {
  { a = [{ b = 1 }] },
]
[[tables.inner]]
z = 5
'''


@each(
    ("path", "line"),
    [
        (("title", "a", "b c"), 2),
        (("title",), 2),
        (("gateways", "my gate"), 3),
        (("gateways", "my gate", "text"), 4),
        (("gateways", "my gate", "list"), 8),
        (("gateways", "my gate", "rpm"), 14),
        (("gateways", "my gate", "tpm"), 3),
        (("gateways", "other"), 3),
        (("tables", "y"), 17),
        (("tables", item(0), "y"), 17),
        (("tables", item(0), "inner", item(0), "z"), 19),
        (("tables", item(1), "y"), 21),
        (("tables", item(1), "inline", item(1), "a"), 24),
        (("tables", item(1), "inner", item(0), "z"), 27),
        (("nothing",), None),
    ],
)
def test_the_line_of_a_key_is_found(path: tuple[str, ...], line: int | None) -> None:
    tomllib.loads(AWKWARD)
    assert TomlPositions(AWKWARD).of(path) == line


_NAME = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8)


@given(st.dictionaries(_NAME, st.dictionaries(_NAME, st.integers(), max_size=4), max_size=4))
def test_every_key_has_the_line_it_was_written_on(tables: Mapping[str, Mapping[str, int]]) -> None:
    lines: list[str] = []
    written: dict[tuple[str, ...], int] = {}
    for table, keys in tables.items():
        lines.append(f"[{json.dumps(table)}] # [x]")
        written[(table,)] = len(lines)
        for key, value in keys.items():
            lines += ["", f"{json.dumps(key)} = {value}"]
            written[(table, key)] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    found = TomlPositions(text)
    assert {path: found.of(path) for path in written} == written


# --- targets


@each(
    ("models", "gateways", "expected"),
    [
        (["m@google"], [], ["m@google"]),
        (["m"], ["google", "dmxapi"], ["m@google", "m@dmxapi"]),
        (["m", "n@openai"], ["google", "dmxapi"], ["m@google", "m@dmxapi", "n@openai"]),
        (["m", "n"], ["dmxapi", "google"], ["m@dmxapi", "m@google", "n@dmxapi", "n@google"]),
        (["a@b@google"], [], ["a@b@google"]),
        (["claude@20250514"], ["google"], ["claude@20250514@google"]),
        (["m@google", "n"], ["google"], ["m@google", "n@google"]),
        (["m@google"], ["google"], ["m@google"]),
        (["vendor/m:free@openrouter"], [], ["vendor/m:free@openrouter"]),
    ],
)
def test_models_and_gateways_make_targets(models: list[str], gateways: list[str], expected: list[str]) -> None:
    assert names(resolve_targets(models, gateways, PRESETS)) == expected


@each(
    ("models", "gateways", "what", "hint"),
    [
        (["m"], [], "the model 'm' has no gateway", "-m m@GATEWAY, or add -g GATEWAY"),
        (["sim-good"], [], "has no gateway", "did you mean -m sim-good@simulator"),
        (["openai/gpt-4o"], [], "the model 'openai/gpt-4o' has no gateway", "did you mean 'gpt-4o@openai'?"),
        (["openai:gpt-4o"], [], "the model 'openai:gpt-4o' has no gateway", "did you mean 'gpt-4o@openai'?"),
        (["meta/llama"], [], "the model 'meta/llama' has no gateway", "-m meta/llama@GATEWAY, or add -g GATEWAY"),
        (["m@gogle"], [], "unknown gateway 'gogle' in 'm@gogle'", "did you mean 'google'"),
        (["m@gogle"], ["google"], "unknown gateway 'gogle' in -m m@gogle", "did you mean 'google'"),
        (["m"], ["gogle"], "unknown gateway 'gogle'", "did you mean 'google'"),
        (["m"], ["qqq"], "unknown gateway 'qqq'", "[gateways.qqq] table"),
        (["m@google"], ["dmxapi"], "-g dmxapi is unused", "-m MODEL -g dmxapi"),
        (["m@google"], ["google", "dmxapi"], "-g dmxapi is unused", "drop -g dmxapi"),
        ([], ["google"], "-g google is unused", "add -m MODEL"),
        (["m@google", "m@google"], [], "the target m@google is given 2 times", "--repeats"),
        (["m", "m@google"], ["google"], "given 2 times", "name each target once"),
        (["m"], ["google", "google"], "given 2 times", "name each target once"),
        (["@google"], [], "has no model name", "MODEL@GATEWAY"),
        (["m @google"], [], "has blanks or invisible characters", "write 'm@google'"),
        (["openai:chat:gpt-4o"], [], "has no gateway", "did you mean 'gpt-4o@openai'?"),
        (["openai:responses:gpt-5"], [], "has no gateway", "did you mean 'gpt-5@openai-responses'?"),
        (["openai-api/deepseek/deepseek-chat"], [], "has no gateway", "did you mean 'deepseek-chat@deepseek'?"),
        (["OpenAI/gpt-4o"], [], "has no gateway", "did you mean 'gpt-4o@openai'?"),
        (["gpt-4o@OpenAI"], [], "unknown gateway 'OpenAI'", "did you mean 'gpt-4o@openai'?"),
        (["gpt-4o\uff20openai"], [], "has no gateway", "did you mean 'gpt-4o@openai'?"),
        (["openai@gpt-4o"], [], "unknown gateway 'gpt-4o'", "did you mean 'gpt-4o@openai'?"),
        (["m@api.openai.com"], [], "unknown gateway", "did you mean 'openai'?"),
        (["m@nope"], [], "unknown gateway 'nope'", "known: anthropic"),
        (["m@"], [], "no gateway after the @", "known gateways"),
        (["a@openai,b@openai"], [], "-m takes one model", "-m a@openai -m b@openai"),
        (["a@openai b@google"], [], "-m takes one model", "-m a@openai -m b@google"),
        (["a，b"], ["openai"], "-m takes one model", "repeat it: -m a -m b"),
        (["a,b"], [], "-m takes one model", "-m a@GATEWAY -m b@GATEWAY"),
        (["a, b@openai"], [], "-m takes one model", "-m a@openai -m b@openai"),
        (["a"], ["google,openai"], "-g takes one gateway", "-g google -g openai"),
        ([""], ["google"], "has no model name", "MODEL@GATEWAY"),
    ],
)
def test_invalid_targets_are_explained(models: list[str], gateways: list[str], what: str, hint: str) -> None:
    with pytest.raises(SetupError) as caught:
        resolve_targets(models, gateways, PRESETS)
    problem = caught.value.problems[0]
    assert what in problem.what
    assert hint in (problem.hint or "")
    assert caught.value.exit_code == 2


def test_a_target_splits_at_the_last_at_sign_before_a_known_gateway() -> None:
    assert split_target("a@b@google", ["google"]) == ("a@b", "google")
    assert split_target("a@google@b", ["google"]) == ("a@google@b", None)
    assert split_target("plain", ["google"]) == ("plain", None)


def test_without_models_and_config_the_simulator_is_the_default() -> None:
    targets = resolve_targets([], [], PRESETS)
    assert names(targets) == ["sim-good@simulator", "sim-drift@simulator"]
    assert all(target.simulated for target in targets)


def test_a_config_without_models_never_falls_back_to_the_simulator() -> None:
    with pytest.raises(SetupError, match=r"demo\.toml: no models to ask"):
        resolve_targets([], [], config_of("[gateways.google]\nrpm = 1\n"))


def test_options_replace_the_configs_models() -> None:
    config = config_of('[run]\nmodels = ["a@google", "b@dmxapi"]\n')
    assert names(resolve_targets([], [], config)) == ["a@google", "b@dmxapi"]
    assert names(resolve_targets(["c@openai"], [], config)) == ["c@openai"]


def test_a_wrong_model_in_the_config_has_its_own_line() -> None:
    config = config_of('[run]\nmodels = [\n  "a@google",\n  "b@gogle",\n]\n')
    with pytest.raises(SetupError, match=r"demo\.toml:4: unknown gateway 'gogle' in 'b@gogle'"):
        resolve_targets([], [], config)
    with pytest.raises(SetupError, match=r"demo\.toml:2: the model 'b' has no gateway"):
        resolve_targets([], [], config_of('[run]\nmodels = ["b"]\n'))


def test_options_override_the_limits_of_every_target() -> None:
    config = config_of('[gateways.google]\nrpm = 60\ntpm = 5\n[gateways.google.models."m"]\nrpm = 7\n')
    overrides = Overrides(rpm=3, rpd=11, attempt_timeout_s=2.0)
    (target,) = resolve_targets(["m@google"], [], config, overrides)
    assert (target.gateway.limits.rpm, target.gateway.limits.tpm, target.gateway.limits.rpd) == (3, 5, 11)
    assert target.gateway.attempt_timeout_s == 2.0
    assert NO_OVERRIDES.apply_to(target.gateway) is target.gateway


@each(("limit", "option", "expected"), [(None, None, 16), (64, None, 64), (64, 8, 8), (4, 100, 4), (None, 100, 100)])
def test_concurrency_is_the_option_capped_by_the_gateway_limit(
    limit: int | None, option: int | None, expected: int
) -> None:
    assert max_in_flight(Limits(concurrency=limit), option) == expected


def test_targets_of_one_quota_owner_share_the_strictest_limits() -> None:
    config = config_of('[gateways.dmxapi]\nrpm = 60\nrate = ["1/s"]\n[gateways.dmxapi-openai]\nrpm = 30\ntpm = 9\n')
    gemini, openai = resolve_targets(["m"], ["dmxapi", "dmxapi-openai"], config)
    assert gemini.quota_owner == openai.quota_owner
    merged = merge_limits([gemini.gateway.limits, openai.gateway.limits])
    assert (merged.rpm, merged.tpm, merged.tpm_counts) == (30, 9, "input+max_output")
    assert merged.rates == (RateLimit(count=1, window_s=1.0),)


# --- settings

_SETTINGS = st.builds(
    Settings,
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(-(2**40), 2**40),
    max_output_tokens=st.none() | st.integers(1, 9),
    stop=st.none() | st.tuples(st.text()),
    extra=st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(), min_size=1),
)


@given(st.lists(_SETTINGS, min_size=5, max_size=5))
def test_the_strongest_layer_that_sets_a_value_decides(layers: list[Settings]) -> None:
    config, target, dialogue, turn, command_line = layers
    settings = effective_settings(command_line=command_line, turn=turn, dialogue=dialogue, target=target, config=config)
    for name in ("temperature", "seed", "max_output_tokens", "stop"):
        values = [value for layer in layers if (value := getattr(layer, name)) is not None]
        assert getattr(settings, name) == (values[-1] if values else None)


@pytest.mark.parametrize(("repeat", "seed"), [(1, 7), (2, 8), (5, 11)])
def test_repeat_k_sends_the_seed_in_force_plus_k_minus_1(repeat: int, seed: int) -> None:
    layers: dict[str, Any] = {"turn": Settings(seed=7), "dialogue": Settings(seed=100)}
    assert effective_settings(**layers, repeat=repeat).seed == seed
    assert effective_settings(repeat=repeat) is NO_SETTINGS


@given(st.lists(_SETTINGS, min_size=5, max_size=5), st.lists(st.sampled_from(SETTING_NAMES), max_size=3))
def test_what_is_unset_is_never_set_and_the_rest_stays(layers: list[Settings], unset: list[str]) -> None:
    command_line, turn, dialogue, target, config = layers
    layer: dict[str, Any] = {
        "command_line": command_line, "turn": turn, "dialogue": dialogue, "target": target, "config": config,
    }  # fmt: skip
    plain = effective_settings(**layer, unset=unset).to_plain()
    expected = {name: value for name, value in effective_settings(**layer).to_plain().items() if name not in unset}
    assert plain == expected


def test_unset_also_drops_the_same_field_of_extra() -> None:
    settings = Settings(temperature=1, extra={"temperature": 2, "top_k": 3})
    assert settings.without(["temperature"]) == Settings(extra={"top_k": 3})
    assert Settings(extra={"seed": 3}).without(["seed"]) == NO_SETTINGS


def test_the_longest_glob_decides_what_is_unset() -> None:
    text = OWN + 'unset = ["top_p"]\n[gateways.lab.models."gpt*"]\nunset = ["temperature"]\n'
    assert [gateway_of(text, "lab", model).unset for model in ("qwen", "gpt-9")] == [("top_p",), ("temperature",)]


def test_extra_is_merged_at_every_depth() -> None:
    settings = effective_settings(
        config=Settings(extra={"a": {"b": 1, "c": {"d": 1}}, "e": 1}),
        command_line=Settings(extra={"a": {"c": {"f": 2}}, "e": 2}),
    )
    assert settings.extra == {"a": {"b": 1, "c": {"d": 1, "f": 2}}, "e": 2}


@each(
    ("params", "expected"),
    [
        ([], {}),
        (["a.b=1", "a.c=true"], {"a": {"b": 1, "c": True}}),
        (["a=x=y"], {"a": "x=y"}),
        (["a=", "b=null"], {"a": "", "b": None}),
        (['a={"b": [1.5]}'], {"a": {"b": [1.5]}}),
        (['a="1"'], {"a": "1"}),
        (["n=12345678901234567890"], {"n": 12345678901234567890}),
        (["a=NaN", "b=今天"], {"a": "NaN", "b": "今天"}),
    ],
)
def test_params_become_nested_fields(params: list[str], expected: dict[str, Any]) -> None:
    assert parse_params(params) == expected


@each(
    ("params", "what"),
    [
        (["a"], "is not PATH=VALUE"),
        (["temperature:0.5"], "write -p temperature=0.5"),
        (["temperature 0.5"], "write -p temperature=0.5"),
        (["a＝1"], "U+FF1D (fullwidth equals sign): write -p a=1"),
        (["“a”=1"], "write -p a=1"),
        (["a={“b”：1}"], """write -p 'a={"b":1}'"""),
        (["a=“x”"], """write -p 'a="x"'"""),
        (["a=0.5,b=1"], "repeat the option: -p a=0.5 -p b=…"),
        ([f"user：{VALUE}"], "is not PATH=VALUE"),
        (["=1"], "is not PATH=VALUE"),
        (["a..b=1"], "-p a..b is not PATH=VALUE"),
        (["a={"], "-p a starts like JSON but does not parse"),
        (["a.b=1", "a.b=2"], "-p a.b is given twice"),
        (["a=1", "a.b=2"], "-p a.b goes inside a, which is given a value of its own"),
        (["a.b=1", "a=2"], "given twice"),
        ([f"user={VALUE}"], "contains what looks like a key"),
        ([VALUE], "is not PATH=VALUE"),
    ],
)
def test_invalid_params_are_explained(params: list[str], what: str) -> None:
    with pytest.raises(SetupError) as caught:
        parse_params(params)
    assert what in str(caught.value)
    assert VALUE not in str(caught.value)
    assert caught.value.problems[0].hint


# --- plain form

_HEADER_NAMES = st.from_regex("[A-Za-z0-9-]{1,6}", fullmatch=True)
_PRINTABLE = st.text(st.characters(categories=("L", "N", "P", "S")))
_GATEWAYS = st.builds(
    Gateway,
    name=st.text(),
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    base_url=st.text(),
    api_version=st.none() | st.text(),
    key_env=st.none() | st.text(),
    key_command=st.none() | st.lists(st.text(), min_size=1, max_size=3).map(tuple),
    headers=st.dictionaries(_HEADER_NAMES, _PRINTABLE, max_size=2),
    secret_headers=st.dictionaries(
        _HEADER_NAMES,
        st.builds(SecretHeader, env=st.text(), prefix=_PRINTABLE, origin=st.none() | st.text()),
        max_size=2,
    ),
    query=st.dictionaries(st.text(), st.text(), max_size=2),
    proxy=st.none() | st.text(),
    allow_http=st.booleans(),
    attempt_timeout_s=st.floats(0.1, 1e6),
    limits=st.builds(
        Limits,
        rpm=st.none() | st.integers(1),
        rpd=st.none() | st.integers(1),
        rates=st.lists(st.builds(RateLimit, count=st.integers(1), window_s=st.floats(0.1, 1e6)), max_size=2).map(tuple),
        jitter_s=st.floats(0, 10),
    ),
    settings=_SETTINGS,
    system_role=st.sampled_from([None, "system", "developer", "user"]),
    path=st.sampled_from([None, "v2/{model}/chat"]),
    seed_field=st.sampled_from([None, "random_seed"]),
    replay=st.sampled_from([None, "exact", "content"]),
    thinking_tags=st.sampled_from([None, "<think>", "[THINK] [/THINK]"]),
    unset=st.lists(st.sampled_from(SETTING_NAMES), max_size=2).map(tuple),
    key_origin=st.none() | st.text(),
    aliases=st.dictionaries(st.text(), st.lists(st.text(), min_size=1, max_size=2).map(tuple), max_size=2),
)


@given(_GATEWAYS, st.text())
def test_a_target_survives_run_json(gateway: Gateway, model: str) -> None:
    target = Target(model=model, gateway=gateway)
    plain = json.loads(json.dumps(target_to_manifest(target).to_json()))
    manifest = ManifestTarget.from_json(plain)
    assert target_from_manifest(manifest) == target
    assert manifest.name == target.name
    assert gateway_from_plain(gateway_to_plain(gateway)) == gateway


# --- examples


@each("path", sorted(CONFIGS.glob("*.toml")))
def test_an_example_config_loads_and_its_targets_can_build_requests(path: Path) -> None:
    targets = resolve_targets([], [], load_config(path))
    assert targets
    messages = (Message(role="user", parts=(text_part("?"),)),)
    for target in targets:
        ask = Ask(model=target.model, messages=messages, settings=target.gateway.settings)
        PROTOCOLS[target.gateway.protocol].build_request(ask, target.gateway.endpoint)


@each("path", sorted(CONFIGS.glob("*.toml")))
def test_the_readme_of_the_examples_lists_every_example_with_its_variables(path: Path) -> None:
    text = (CONFIGS / "README.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| `{path.name}` "))
    gateways = [target.gateway for target in resolve_targets([], [], load_config(path))]
    variables = {name for gateway in gateways for name in variables_of(gateway)}
    assert set(re.findall(r"`([A-Z_]+)`", row)) == variables
    credentials = Credentials(dict.fromkeys(variables, "fake-key-0123456789"))
    credentials.require_variables(gateways)
    for gateway in gateways:
        if gateway.key_command is None:
            assert (credentials.key(gateway) is None) == (gateway.auth == "none")


@each(
    ("file", "gateway", "url"),
    [
        ("azure", "azure", "https://RESOURCE.openai.azure.com/openai/v1/chat/completions"),
        ("azure", "azure-classic", "https://RESOURCE.openai.azure.com/openai/deployments/m/chat/completions"),
        ("vertex", "vertex-express",
         "https://aiplatform.googleapis.com/v1/publishers/google/models/m:generateContent"),
        ("vertex", "vertex", "https://aiplatform.googleapis.com/v1/projects/PROJECT/locations/global/publishers/google"
         "/models/m:generateContent"),
        ("in-front", "cloudflare", "https://gateway.ai.cloudflare.com/v1/ACCOUNT/GATEWAY/openai/chat/completions"),
        ("zhipu", "zhipu", "https://open.bigmodel.cn/api/paas/v4/chat/completions"),
        ("ark", "ark", "https://ark.cn-beijing.volces.com/api/v3/chat/completions"),
    ],
)  # fmt: skip
def test_an_example_sends_requests_to_the_gateways_url(file: str, gateway: str, url: str) -> None:
    found = load_config(CONFIGS / f"{file}.toml").gateways[gateway].for_model("m")
    ask = Ask(model="m", messages=(Message(role="user", parts=(text_part("?"),)),))
    asked = PROTOCOLS[found.protocol].build_request(ask, found.endpoint).url
    assert asked.lower() == url.lower()


def test_the_examples_together_show_every_key() -> None:
    from convbatch.config.prices import ROW_KEYS
    from convbatch.config.usage_logs import USAGE_LOG_KEYS
    from convbatch.config.validators import GATEWAY_KEYS, POOL_KEYS, RUN_KEYS, VARIANT_KEYS

    text = (CONFIGS / "every-key.toml").read_text(encoding="utf-8")
    shown = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines()}
    assert shown >= {*GATEWAY_KEYS, *POOL_KEYS, *VARIANT_KEYS, *RUN_KEYS, *ROW_KEYS, *USAGE_LOG_KEYS}


def test_config_is_imported_without_the_heavy_libraries() -> None:
    heavy = ("pydantic", "aiohttp", "pandas", "ssl", "zoneinfo")
    code = (
        "import sys, convbatch.config.gateways, convbatch.config.loader; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.stdout.strip() == "[]"


def test_config_errors_have_exit_code_2() -> None:
    assert {InputError.exit_code, SetupError.exit_code, ConvbatchError.exit_code} == {2}


def test_the_manual_lists_every_preset_and_every_key() -> None:
    from convbatch.config.usage_logs import USAGE_LOG_KEYS
    from convbatch.config.validators import GATEWAY_KEYS

    text = (CONFIGS.parent / "docs" / "gateways.md").read_text(encoding="utf-8")
    for name, table in presets().items():
        gateway = table.for_model(None)
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` "))
        assert f"| {gateway.protocol} |" in row
        assert f"`{gateway.auth}`" in row
        assert (gateway.key_env or "–") in row
        assert gateway.base_url == "simulator:" or f"`{gateway.base_url}`" in row
    assert not [key for key in GATEWAY_KEYS if f"`{key}`" not in text]
    bills = (CONFIGS.parent / "docs" / "audit.md").read_text(encoding="utf-8")
    assert not [key for key in USAGE_LOG_KEYS if f"`{key}`" not in bills]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "true", '"7"', "1e300", "1e-300", "9" * 400])
def test_an_exchange_rate_is_a_number_of_more_than_0_and_its_key_is_shown_in_quotes(tmp_path: Path, value: str):
    path = tmp_path / "c.toml"
    path.write_text(f'[rates]\n"USD/CNY" = {value}\n')
    with pytest.raises(ConvbatchError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "the rate USD/CNY must be a number of more than 0" in text
    assert 'write "USD/CNY" = 7.1' in text


def test_an_exchange_rate_between_names_that_are_no_codes_and_a_price_without_end_are_refused(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(
        '[rates]\n"USD/RMB" = 7\n[prices.openai]\n'
        f'"a" = {{ input = 1e300, output = 1 }}\n"b" = {{ input = {"9" * 400}, output = 1 }}\n'
    )
    with pytest.raises(ConvbatchError) as caught:
        load_config(path)
    text = str(caught.value)
    assert 'did you mean "USD/CNY"?' in text
    assert text.count("input must be at most 1,000,000,000,000") == 2
