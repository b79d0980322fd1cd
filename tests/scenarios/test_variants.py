"""Variants: other wordings of the dialogues as a dimension of a run, beside model and gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import convbatch as cb
from convbatch.dialogue import Dialogue, Part, Settings, Turn, Variant, text_part
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import Command, config_for
from tests.support.canary import CANARY

Simulators = Callable[[Provider], Server]

TABLES = """
[variants.terse]
system_file = "prompts/terse.md"

[variants.polite]
prefix = "Please: "
suffix = " Thank you."
settings = { temperature = 0 }
"""


@pytest.fixture
def server(simulator: Simulators, tmp_path: Path) -> Server:
    server = simulator(Provider(keys={CANARY}))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "terse.md").write_text("Be terse.\n\n")
    (tmp_path / "c.toml").write_text(config_for(server.url) + TABLES)
    dialogues = [
        {"id": "a", "system": "Be kind.", "turns": [{"user": "one"}, {"user": "two"}], "settings": {"temperature": 1}},
        {"id": "b", "turns": [{"user": "three", "checks": [{"contains": "History"}]}]},
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(one) + "\n" for one in dialogues))
    return server


def run(convbatch: Command, *more: str, out: str = "run") -> None:
    done = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@at-gemini", *more, "-o", out)
    assert done.code == 0, done.err


def asked(server: Server) -> list[list[list[str]]]:
    return [entry.history or [] for entry in server.provider.ledger.entries]


def test_every_target_is_asked_in_every_variant(server: Server, convbatch: Command, tmp_path: Path):
    run(convbatch, "--variant", "none", "--variant", "terse", "--variant", "polite", "-j", "1")
    turns = cb.load(tmp_path / "run").turns
    names = ["sim-good@at-gemini", "sim-good@at-gemini#terse", "sim-good@at-gemini#polite"]
    assert set(turns["target"]) == set(names)
    assert turns.fillna({"variant": "-"}).groupby("target")["variant"].unique().map(list).to_dict() == {
        names[0]: ["-"], names[1]: ["terse"], names[2]: ["polite"],
    }  # fmt: skip
    firsts = sorted(history[:2] for history in asked(server) if history[-1][1].find("one") >= 0)
    assert firsts == [
        [["system", "Be kind."], ["user", "Please: one Thank you."]],
        [["system", "Be kind."], ["user", "one"]],
        [["system", "Be terse."], ["user", "one"]],
    ]
    users = turns[turns["target"] == names[2]]["user"].tolist()
    assert users == ["Please: one Thank you.", "Please: two Thank you.", "Please: three Thank you."]


def test_a_run_with_variants_is_resumed_reused_and_reported_without_its_config(
    server: Server, convbatch: Command, tmp_path: Path
):
    run(convbatch, "--variant", "terse", "--variant", "polite")
    count = len(server.provider.ledger.entries)
    run(convbatch, "--variant", "polite", "--variant", "terse", "--reuse", "run", out="again")
    assert len(server.provider.ledger.entries) == count
    (tmp_path / "prompts" / "terse.md").unlink()
    (tmp_path / "c.toml").unlink()
    assert convbatch("resume", "run").code == 0
    assert len(server.provider.ledger.entries) == count
    shown = convbatch("report", "run", "--by", "variant", "--json")
    assert shown.code == 0, shown.err
    assert '"variant":"terse"' in shown.out.replace(": ", ":")


def test_two_variants_of_a_run_are_compared_and_the_difference_is_named(
    server: Server, convbatch: Command, tmp_path: Path
):
    run(convbatch, "--variant", "terse", "--variant", "polite")
    done = convbatch("compare", "run:#terse", "run:#polite")
    assert done.code in (0, 1, 3), done.err
    assert "variant terse against polite: another system and prefix and suffix" in done.out + done.err
    assert "variant setting temperature: not set against 0" in done.out + done.err
    wrong = convbatch("compare", "run:sim-good", "run:#polite")
    assert wrong.code == 2
    assert "run run has 2 targets 'sim-good'" in wrong.err


def test_raw_and_dry_run_show_what_is_asked(server: Server, convbatch: Command, tmp_path: Path):
    run(convbatch, "--variant", "polite")
    done = convbatch("show", "run", "--raw", "a", "2")
    assert done.code == 0, done.err
    assert "Please: two Thank you." in done.out
    dry = convbatch("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@at-gemini", "--variant", "polite", "--dry-run")
    assert dry.code == 0, dry.err
    assert "sim-good@at-gemini#polite" in dry.out + dry.err


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ("", ["--variant", "v3"], "unknown variant 'v3'"),
        ("", ["--variant", "terse,polite"], "repeat it: --variant terse --variant polite"),
        ("", ["--variant", "terse", "--variant", "terse"], "the variant terse is given 2 times"),
        ("", ["--variant", "polite", "--temperature", "1"], "overrides temperature of the variant 'polite'"),
        ("[variants.none]\nprefix = 'x'", [], "'none' means the dialogues as they are"),
        ("[variants.empty]", [], "the variant 'empty' changes nothing"),
        ("[variants.x]\nsystem = 'a'\nsystem_file = 'prompts/terse.md'", [], "system and system_file are both set"),
        ("[variants.x]\nsystem_file = 'prompts/no.md'", [], "system_file cannot be read: No such file or directory"),
        ("[variants.x]\nsystem_file = 'prompts'", [], "system_file is not a file"),
        ("[variants.x]\nsystem_file = 'prompts/blank.md'", [], 'to remove the system text, write system = ""'),
        ("", ["-m", "sim-good@at-gemini#terse", "--variant", "polite"], "--variant polite is unused"),
        ("[variants.x]\nsettings = { temperature = nan }", [], "write a finite number, or leave the key out"),
        ("[variants.x]\nsystm = 'a'", [], "did you mean 'system'?"),
        ("[variants.x]\nprefix = 3", [], "prefix must be a text"),
        ("[variants.x]\ntemperature = 0", [], "it belongs to [variants.x.settings]"),
        ("[variants.x]\nsettings = { temperature = 'hot' }", [], "temperature should be a valid number"),
    ],
)  # fmt: skip
def test_a_wrong_variant_is_refused(
    server: Server, convbatch: Command, tmp_path: Path, table: str, arguments: list[str], message: str
):
    text = config_for(server.url) + TABLES + table
    (tmp_path / "c.toml").write_text(text)
    (tmp_path / "prompts" / "blank.md").write_text("\n \n")
    models = [] if "-m" in arguments else ["-m", "sim-good@at-gemini"]
    done = convbatch("run", "d.jsonl", "-c", "c.toml", *models, *arguments, "-o", "run")
    assert done.code == 2
    assert message in done.err
    if table:
        lines = range(text.count("\n") + 1 - table.count("\n"), text.count("\n") + 2)
        assert any(f"c.toml:{line}:" in done.err for line in lines), done.err
    assert not (tmp_path / "run").exists()
    assert not server.provider.ledger.entries


def test_two_variants_of_one_wording_are_told_apart_by_a_note(server: Server, convbatch: Command, tmp_path: Path):
    same = "[variants.copy]\nsystem_file = 'prompts/terse.md'\n"
    (tmp_path / "c.toml").write_text(config_for(server.url) + TABLES + same)
    start = ("run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@at-gemini", "--variant", "terse", "--no-progress")
    told = "note: the variants terse and copy are the same wording, and each of them is paid"
    assert told in convbatch(*start, "--variant", "copy", "-o", "one").err
    assert "the same wording" not in convbatch(*start, "--variant", "polite", "-o", "two").err


TEXTS = st.text(max_size=5)
SETTINGS = st.builds(
    Settings,
    temperature=st.none() | st.floats(0, 2),
    seed=st.none() | st.integers(0, 9),
    top_p=st.none() | st.floats(0, 1),
)
PARTS = st.lists(st.builds(text_part, TEXTS) | st.just(Part(kind="image", path="a.png")), min_size=1, max_size=4)
TURNS = st.builds(Turn, user=PARTS.map(tuple), settings=SETTINGS)
DIALOGUES = st.builds(
    Dialogue,
    id=st.just("d"),
    turns=st.lists(TURNS, min_size=1, max_size=3).map(tuple),
    system=st.none() | TEXTS,
    settings=SETTINGS,
)
VARIANTS = st.builds(
    Variant, name=st.just("v"), system=st.none() | TEXTS, prefix=TEXTS, suffix=TEXTS, settings=SETTINGS
)


@given(DIALOGUES, VARIANTS)
def test_a_variant_changes_what_it_names_and_nothing_else(dialogue: Dialogue, variant: Variant):
    from convbatch.dialogue import effective_settings

    worded = variant.applied_to(dialogue)
    assert Variant.from_plain(json.loads(json.dumps(variant.to_plain()))) == variant
    assert worded.system == (dialogue.system if variant.system is None else variant.system or None)
    for before, after in zip(dialogue.turns, worded.turns, strict=True):
        assert after.user_text == variant.prefix + before.user_text + variant.suffix
        assert [part for part in after.user if part.kind != "text"] == [
            part for part in before.user if part.kind != "text"
        ]
        plain: dict[str, Any] = effective_settings(turn=before.settings, dialogue=dialogue.settings).to_plain()
        asked = effective_settings(turn=after.settings, dialogue=worded.settings).to_plain()
        assert asked == {**plain, **variant.settings.to_plain()}


def test_a_target_may_name_its_own_variant(server: Server, convbatch: Command, tmp_path: Path):
    done = convbatch(
        "run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@at-gemini#terse", "-m", "sim-drift@at-gemini", "-o", "run"
    )
    assert done.code == 0, done.err
    assert cb.load(tmp_path / "run").targets == ("sim-good@at-gemini#terse", "sim-drift@at-gemini")
    twice = convbatch(
        "run", "d.jsonl", "-c", "c.toml", "-m", "sim-good@at-gemini#terse", "-m", "sim-good@at-gemini",
        "--variant", "terse",
    )  # fmt: skip
    assert twice.code == 2
    assert "the target sim-good@at-gemini#terse is given 2 times" in twice.err
