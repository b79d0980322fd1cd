"""Hints for a config that is not TOML, and for keys and values that another tool or another table takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from convbatch.config.loader import load_config
from convbatch.errors import InputError
from tests.support.tables import each

GATEWAY = '[gateways.g]\nprotocol = "openai"\nbase_url = "https://x.example/v1"\nkey_env = "K"\n'


def hints_of(text: str, folder: Path) -> str:
    file = folder / "faulty.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_config(file)
    return "\n".join(str(problem) for problem in refused.value.problems)


@each(
    ("line", "hint"),
    [
        (
            "models = [\u201cm@g\u201d]",
            'U+201C (left double quotation mark) at character 11: write the plain double quote "',
        ),
        ("repeats\u3000= 3", "U+3000 (ideographic space) at character 8: use a plain space"),
        ("\u00a0", "U+00A0 (no-break space) at character 1: use a plain space"),
        ("repeats\uff1a3", "U+FF1A (fullwidth colon) at character 8: write ="),
        ("stream = True", "write stream = true"),
        ("stream = None", "leave stream out"),
        ("// mine", "a comment starts with #, not with //"),
        ("repeats: 3", "write repeats = …"),
        ("repeats = 3,", "drop the , at the end of the line"),
        ("repeats = 03", "write repeats = 3"),
        ("temperature = 0,5", "write temperature = 0.5"),
        ('ca = "C:\\Users"', "double the backslash"),
        ('history = "live', "no closing quote"),
        ("repeats = 3\nrepeats = 4", "keep one of the two"),
        ("[judge", "write [judge]"),
        ('models = ["m@g"', "add the ] that closes it"),
    ],
)
def test_a_line_that_is_no_toml_is_told_how_to_mend(
    tmp_path_factory: pytest.TempPathFactory, line: str, hint: str
) -> None:
    assert hint in hints_of(f"[run]\n{line}\n", tmp_path_factory.getbasetemp())


def test_no_hint_repeats_a_value_without_quotes_which_may_be_a_key(tmp_path: Path) -> None:
    assert "abcdef" not in hints_of("[gateways.g]\nkey = xk-abcdef0123456789\n", tmp_path)


@each(
    ("text", "hint"),
    [
        ("[run]\ndeadline = 5", "on the command line: --deadline 5m"),
        ("[run]\nretries = 3", "did you mean 'max_attempts'?"),
        ('[run]\nrepeats = "3"', "write repeats = 3"),
        ('[run.settings]\nmax_cost = "5USD"', "it belongs to [run]"),
        ("[gateways.g.models.m]\ntemperature = 0", "it belongs to [gateways.g.models.m.settings]"),
        ("[settings]\ntemperature = 0", '[gateways.NAME.models."*".settings]'),
        ('[judge]\nmodel = "m@g"', "--judge MODEL@GATEWAY"),
        ('[prices."m@g"]\ninput = 1', "write [prices.g.m]"),
        ("[gateways.h]\nurl = 'https://h.example/v1'", "did you mean 'base_url'?"),
        ("[gateways.h]\nbase_url = 'h.example/v1'", 'write base_url = "https://h.example/v1"'),
        ("[gateways.h]\nbase_url = 'localhost:8000/v1'", 'write base_url = "http://localhost:8000/v1"'),
        ("[gateways.h]\nbase_url = 'https\uff1a//h.example/v1'", 'write base_url = "https://h.example/v1"'),
        ("[gateways.h]\nbase_url = 'https://h.example/v1/models'", 'write base_url = "https://h.example/v1"'),
        ("[gateways.h]\nprotocol = 'claude'", 'write protocol = "anthropic"'),
        ("[gateways.h]\nkey_env = '${OPENAI_API_KEY}'", 'write key_env = "OPENAI_API_KEY"'),
        ("[gateways.h]\nprice_multiplier = '80%'", "write price_multiplier = 0.8, without quotes"),
    ],
)
def test_a_key_or_value_of_another_form_is_translated(
    tmp_path_factory: pytest.TempPathFactory, text: str, hint: str
) -> None:
    assert hint in hints_of(f"{GATEWAY}{text}\n", tmp_path_factory.getbasetemp())
