"""`run.json` as a `Manifest`: written and read back the same, kept whole across versions, refused in one message."""

from __future__ import annotations

import copy
import dataclasses
import json
import tarfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbatch.config.gateways import Gateway, Limits, RateLimit, target_from_manifest, target_to_manifest
from convbatch.dialogue import MAX_REPEATS, Settings
from convbatch.errors import SetupError
from convbatch.journal.manifest import (
    Manifest,
    ManifestDataset,
    ManifestGateway,
    ManifestOptions,
    ManifestSource,
    ManifestTarget,
    PlannedRows,
    SimulatorSetup,
)
from convbatch.journal.run_folder import RunFolder
from convbatch.pricing import ExchangeRates, Period, PriceTable, TokenPrice
from tests.conftest import examples
from tests.support.made_runs import GOOD, REAL, MadeRun, dialogue
from tests.support.tables import each

ARCHIVE = Path(__file__).parents[1] / "old_runs" / "v0.1.0" / "runs.tar.gz"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
maybe_texts = st.none() | texts
counts = st.integers(0, 10**9)
positive = st.integers(1, 10**9)
amounts = st.decimals(0, 1000, allow_nan=False, allow_infinity=False, places=4)
others = st.dictionaries(st.sampled_from(["newer", "newest"]), st.none() | st.integers() | texts, max_size=2)
setting_values = st.builds(
    Settings,
    temperature=st.none() | st.floats(0, 2),
    max_output_tokens=st.none() | positive,
    stop=st.none() | st.lists(texts, min_size=1, max_size=2).map(tuple),
    extra=st.none() | st.dictionaries(texts, texts, min_size=1, max_size=2),
)
prices = st.builds(
    PriceTable,
    currency=st.just("USD"),
    source=texts,
    periods=st.lists(
        st.builds(
            Period, input=st.builds(TokenPrice, base=amounts), output=st.builds(TokenPrice, base=amounts)
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
)  # fmt: skip
gateways = st.builds(
    ManifestGateway,
    name=texts,
    protocol=texts,
    base_url=texts,
    currency=maybe_texts,
    settings=setting_values,
    other=others.map(lambda other: {"limits": {"rpm": 5, "rates": []}, "auth": "none", **other}),
)
targets = st.builds(
    ManifestTarget,
    name=texts,
    model=texts,
    simulated=st.booleans(),
    gateway=gateways,
    prices=st.none() | prices,
    other=others,
)
sources = st.builds(ManifestSource, path=st.text(max_size=8), sha256=texts, size=st.none() | counts, other=others)
manifests = st.builds(
    Manifest,
    targets=st.lists(targets, min_size=1, max_size=3).map(tuple),
    history=st.sampled_from(["live", "script", "last"]),
    repeats=st.integers(1, MAX_REPEATS),
    planned=st.builds(PlannedRows, rows=counts, per_target=st.none() | counts, other=others),
    settings=setting_values,
    options=st.builds(
        ManifestOptions,
        concurrency=st.none() | positive,
        max_attempts=st.none() | positive,
        reuse=st.none() | st.text(max_size=8),
        max_cost=maybe_texts,
        fail_under=maybe_texts,
        judge=maybe_texts,
        other=others,
    ),
    dataset=st.builds(
        ManifestDataset,
        sources=st.lists(sources, max_size=2).map(tuple),
        sha256=maybe_texts,
        dialogues=counts,
        asked_turns=counts,
        selection=st.dictionaries(texts, counts, max_size=2),
        other=others,
    ),
    run=st.none() | st.text(max_size=8),
    origin=st.none() | texts,
    convbatch=maybe_texts,
    python=maybe_texts,
    created_at=texts,
    state=texts,
    config=st.none() | st.text(max_size=8),
    judges=st.lists(targets, max_size=2).map(tuple),
    rates=st.dictionaries(
        st.sampled_from([("USD", "CNY"), ("EUR", "USD")]), amounts.filter(bool), max_size=2
    ).map(ExchangeRates),
    simulator=st.none() | st.builds(SimulatorSetup, seed=st.integers(), other=others),
    checks=counts,
    judges_needed=counts,
    python_checks=st.lists(texts, max_size=2).map(tuple),
    other=others,
)  # fmt: skip


@settings(max_examples=examples(80), suppress_health_check=[HealthCheck.too_slow])  # one example is a whole run.json
@given(manifests)
def test_a_written_manifest_is_read_back(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def good() -> dict[str, Any]:
    """A valid `run.json` with a value for every key."""
    target = {
        "name": REAL,
        "model": "gemini-2.5-flash",
        "simulated": False,
        "gateway": {
            "name": "google",
            "protocol": "gemini",
            "base_url": "https://google.example",
            "currency": "USD",
            "settings": {"temperature": 0.5, "stop": ["END"]},
            "limits": {"rpm": 5, "rates": [{"count": 5, "window_s": 60.0}], "jitter_s": 1.0},
            "headers": {"x-a": "b"},
            "price_multiplier": "7.1",
        },
        "prices": {"currency": "USD", "source": "list", "periods": [{"input": "0.30", "output": "2.5"}]},
    }
    return {
        "v": 1,
        "run": "r",
        "origin": "0" * 32,
        "convbatch": "0.1.0",
        "python": "3.11.7",
        "created_at": "2026-11-21T23:30:00Z",
        "state": "finished",
        "config": None,
        "dataset": {
            "sources": [{"path": "d.jsonl", "size": 3, "sha256": "ab"}],
            "sha256": "cd",
            "dialogues": 1,
            "asked_turns": 2,
            "selection": {"limit": 1},
        },
        "history": "live",
        "repeats": 1,
        "settings": {"max_output_tokens": 20},
        "options": {
            "concurrency": None,
            "max_attempts": 5,
            "reuse": None,
            "max_cost": "5USD",
            "fail_under": None,
            "judge": None,
        },
        "targets": [target],
        "judges": [{**copy.deepcopy(target), "name": "j@google"}],
        "rates": {"USD/CNY": "7.10"},
        "planned": {"rows": 2, "per_target": 2},
        "simulator": None,
        "checks": 3,
        "judges_needed": 0,
        "python_checks": ["mine.tone"],
    }


def test_a_rewrite_changes_nothing() -> None:
    assert Manifest.from_json(good()).to_json() == good()


def test_keys_of_a_newer_version_survive_a_rewrite_at_every_level() -> None:
    plain = good()
    for place in (
        plain,
        plain["dataset"],
        plain["dataset"]["sources"][0],
        plain["options"],
        plain["planned"],
        plain["targets"][0],
        plain["targets"][0]["gateway"],
        plain["targets"][0]["gateway"]["limits"],
    ):
        place["newer"] = {"key": [1]}
    assert Manifest.from_json(plain).to_json() == plain


@each(
    "key",
    [
        "run", "origin", "convbatch", "python", "created_at", "state", "config", "judges", "rates", "simulator",
        "checks", "judges_needed", "python_checks",
    ],
)  # fmt: skip
def test_optional_keys_may_be_absent_or_null(key: str) -> None:
    absent = {name: value for name, value in good().items() if name != key}
    assert Manifest.from_json({**good(), key: None}) == Manifest.from_json(absent)


def test_a_run_of_the_first_version_is_read_and_rewritten_the_same(tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    paths = list(tmp_path.rglob("run.json"))
    assert len(paths) == 2
    for path in paths:
        folder = RunFolder.open(path.parent)
        before = path.read_bytes()
        manifest = folder.read_manifest()
        for target in (*manifest.targets, *manifest.judges):
            assert target_to_manifest(target_from_manifest(target), target.prices) == target
        folder.write_manifest(manifest)
        assert json.loads(path.read_bytes()) == json.loads(before)


def test_values_are_typed() -> None:
    manifest = Manifest.from_json(good())
    [target] = manifest.targets
    assert manifest.target_names == (REAL,)
    assert manifest.current_judge == manifest.judges[0]
    assert manifest.settings == Settings(max_output_tokens=20)
    assert manifest.rates == ExchangeRates({("USD", "CNY"): Decimal("7.10")})
    assert target.prices is not None
    assert target.prices.periods[0].input == TokenPrice(base=Decimal("0.30"))
    assert target.gateway.settings == Settings(temperature=0.5, stop=("END",))
    assert target_from_manifest(target).gateway == Gateway(
        name="google",
        protocol="gemini",
        base_url="https://google.example",
        currency="USD",
        headers={"x-a": "b"},
        price_multiplier=Decimal("7.1"),
        limits=Limits(rpm=5, rates=(RateLimit(count=5, window_s=60.0),)),
        settings=Settings(temperature=0.5, stop=("END",)),
    )


Edit = Callable[[dict[str, Any]], object]
BROKEN: dict[str, tuple[Edit, str, str]] = {
    "no targets": (lambda m: m.pop("targets"), "targets", "targets is missing or empty"),
    "empty targets": (lambda m: m.update(targets=[]), "targets", "targets is missing or empty"),
    "targets an object": (lambda m: m.update(targets={}), "targets", "targets is an object, not a list"),
    "a number as target": (lambda m: m["targets"].append(3), "targets", "targets[1] is 3, not an object"),
    "name": (lambda m: m["targets"][0].update(name=5), "targets", "targets[0].name is 5, not text"),
    "half a character": (lambda m: m["targets"][0].update(name="\ud800"), "targets", r'targets[0].name is "\ud800"'),
    "no flag": (lambda m: m["targets"][0].pop("simulated"), "targets", "targets[0].simulated is missing"),
    "no gateway": (lambda m: m["targets"][0].pop("gateway"), "targets", "targets[0].gateway is missing"),
    "half a gateway": (
        lambda m: m["judges"][0].update(gateway={"name": "g"}),
        "judges",
        "judges[0].gateway.limits is missing; expected an object",
    ),
    "gateway setting": (
        lambda m: m["targets"][0]["gateway"]["settings"].update(stop="END"),
        "targets",
        'targets[0].gateway.settings.stop is "END", not a list of texts',
    ),
    "limit": (
        lambda m: m["targets"][0]["gateway"]["limits"].update(rpm=0),
        "targets",
        "targets[0].gateway.limits.rpm is 0, not a whole number from 1",
    ),
    "window": (
        lambda m: m["targets"][0]["gateway"]["limits"].update(rates=[{"count": 1}]),
        "targets",
        "targets[0].gateway.limits.rates is a list, not a list of {count, window_s}",
    ),
    "headers": (
        lambda m: m["targets"][0]["gateway"].update(headers=["a"]),
        "targets",
        "targets[0].gateway.headers is a list, not an object of header names and texts",
    ),
    "a line end in a header": (
        lambda m: m["targets"][0]["gateway"].update(headers={"x-a": "b\r\nx-b: c"}),
        "targets",
        "targets[0].gateway.headers is an object, not an object of header names and texts",
    ),
    "a line end in the name of a header": (
        lambda m: m["targets"][0]["gateway"].update(
            secret_headers={"x-a\r\n": {"env": "A", "prefix": "", "origin": None}}
        ),
        "targets",
        "targets[0].gateway.secret_headers is an object, not an object of {env, prefix, origin}",
    ),
    "a line end in a prefix": (
        lambda m: m["targets"][0]["gateway"].update(
            secret_headers={"x-a": {"env": "A", "prefix": "\r\n", "origin": None}}
        ),
        "targets",
        "targets[0].gateway.secret_headers is an object, not an object of {env, prefix, origin}",
    ),
    "auth": (
        lambda m: m["targets"][0]["gateway"].update(auth="query:key\r\n"),
        "targets",
        'targets[0].gateway.auth is "query:key\\r\\n", not an auth scheme',
    ),
    "multiplier": (
        lambda m: m["targets"][0]["gateway"].update(price_multiplier="seven"),
        "targets",
        'targets[0].gateway.price_multiplier is "seven", not a decimal number',
    ),
    "prices": (
        lambda m: m["targets"][0]["prices"].update(periods=[{"input": "0.3 USD"}]),
        "targets",
        "targets[0].prices is an object, not a price table",
    ),
    "a negative price": (
        lambda m: m["targets"][0]["prices"].update(periods=[{"input": "-1"}]),
        "targets",
        "targets[0].prices is an object, not a price table",
    ),
    "judges": (lambda m: m.update(judges={}), "judges", "judges is an object, not a list"),
    "no history": (lambda m: m.pop("history"), "history", "history is missing; expected live, script or last"),
    "history": (lambda m: m.update(history="foo"), "history", 'history is "foo", not live, script or last'),
    "history a list": (lambda m: m.update(history=[]), "history", "history is a list, not live, script or last"),
    "repeats": (lambda m: m.update(repeats=0), "repeats", "repeats is 0, not a whole number from 1 to 10000"),
    "too many repeats": (lambda m: m.update(repeats=MAX_REPEATS + 1), "repeats", "repeats is 10001"),
    "true repeats": (lambda m: m.update(repeats=True), "repeats", "repeats is true"),
    "planned": (lambda m: m.update(planned={"rows": "many"}), "planned", 'planned.rows is "many"'),
    "planned null": (lambda m: m.update(planned=None), "planned", "planned is null, not an object"),
    "no settings": (lambda m: m.pop("settings"), "settings", "settings is missing; expected an object"),
    "setting": (lambda m: m.update(settings={"seed": "x"}), "settings", 'settings.seed is "x", not a whole number'),
    "unknown setting": (
        lambda m: m.update(settings={"mood": 1}),
        "settings",
        'settings holds "mood", which is no setting this version knows',
    ),
    "not a number": (
        lambda m: m.update(settings={"temperature": float("nan")}),
        "settings",
        "settings.temperature is NaN, not a number",
    ),
    "options": (lambda m: m.update(options=[]), "options", "options is a list, not an object"),
    "option": (lambda m: m["options"].update(max_attempts="5"), "options", 'options.max_attempts is "5"'),
    "dataset": (lambda m: m.pop("dataset"), "dataset", "dataset is missing; expected an object"),
    "source": (lambda m: m["dataset"]["sources"][0].pop("path"), "dataset", "dataset.sources[0].path is missing"),
    "rates": (lambda m: m.update(rates={"USD/CNY": "seven"}), "rates", "rates is an object, not an object of exchange"),
    "simulator": (lambda m: m.update(simulator={"seed": "x"}), "simulator", 'simulator.seed is "x"'),
    "state": (lambda m: m.update(state=3), "state", "state is 3, not text"),
    "python checks": (lambda m: m.update(python_checks=[1]), "python_checks", "python_checks is a list, not a list of"),
}


@each("case", BROKEN)
def test_an_edited_manifest_is_refused_in_one_message(case: str) -> None:
    edit, key, found = BROKEN[case]
    plain = good()
    edit(plain)
    with pytest.raises(SetupError) as refused:
        Manifest.from_json(plain, path="out/run.json")
    [problem] = refused.value.problems
    assert str(problem.place) == "out/run.json"
    assert problem.what == f"run.json is not as convbatch wrote it: {key!r} is missing or wrong"
    assert found in (problem.found or "")
    assert "restore run.json" in (problem.hint or "")


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ([], "run.json is not a JSON object"),
        (None, "run.json is not a JSON object"),
        ({**good(), "v": 2, "convbatch": "9.1"}, "run.json is of version 2"),
    ],
)
def test_another_file_and_a_newer_version_are_refused(plain: Any, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        Manifest.from_json(plain)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda gateway: gateway.update(protocol="telex"), "protocol 'telex'"),
        (lambda gateway: gateway.update(region="eu"), "field 'region'"),
        (lambda gateway: gateway["limits"].update(rph=3), "limit 'rph'"),
    ],
)
def test_a_gateway_of_a_newer_version_can_be_read_but_not_asked(edit: Edit, message: str) -> None:
    plain = good()
    edit(plain["targets"][0]["gateway"])
    [target] = Manifest.from_json(plain).targets
    with pytest.raises(SetupError, match=message):
        target_from_manifest(target)


def test_a_folder_reads_and_writes_its_manifest(tmp_path: Path) -> None:
    folder = MadeRun(path=tmp_path / "run", dialogues=[dialogue("d", "hello")], targets=(GOOD, REAL)).write()
    manifest = folder.read_manifest()
    assert manifest.target_names == (GOOD, REAL)
    assert [target.simulated for target in manifest.targets] == [True, False]
    folder.write_manifest(dataclasses.replace(manifest, state="interrupted", config="\udcff.toml"))
    assert folder.read_manifest().state == folder.state(folder.read_manifest()) == "interrupted"
    assert folder.read_manifest().config == "\udcff.toml"
    (folder.path / "run.json").write_text("{")
    with pytest.raises(SetupError, match=r"cannot read run\.json"):
        folder.read_manifest()
