"""Accuracy of `run --dry-run`: its estimates against the simulator's billing ledger.

`convbatch run` sends each file of dialogues to a simulator that gives the recorded replies, if any, at a gateway with
prices. The estimates are made without history, from a stratified sample of ten dialogues, and from a whole run of
another model. The simulator counts tokens by its own rule, so estimates without history say little about real models;
the others are learned without knowledge of that rule.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from benchmarks.measure import ROOT, Failed, environment
from convbatch.cli.dry_run import Forecast, forecast_targets
from convbatch.estimation.estimator import Figures
from convbatch.pricing import PriceTable
from convbatch.reply import Usage
from convbatch.session.options import RunOptions
from convbatch.session.prepare import prepare_dry_run
from convbatch.simulator.ledger import Entry
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script
from convbatch.simulator.server import Server, serve_in_thread

CONFIG = """\
[gateways.bench]
protocol = "gemini"
base_url = "{url}"
auth = "none"

[prices.bench."*"]
currency = "USD"
input = 0.3
output = 2.5
"""
PILOT = 10
MODELS = ("sim-think", "sim-drift")
OTHER = "sim-good"
QUICKSTART = ROOT / "datasets" / "quickstart.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An estimate of one figure and its value in the ledger."""

    dataset: str
    target: str
    learned: str
    figure: str
    low: float
    expected: float
    high: float
    real: float

    @property
    def ratio(self) -> float:
        """Return expected / real; 1 is exact."""
        return self.expected / self.real


def accuracy(datasets: Sequence[Path], folder: Path) -> Iterator[Estimate]:
    """Yield every estimate of every file."""
    for path in datasets or [QUICKSTART]:
        canonical = folder / f"{path.stem}.canonical.jsonl"
        _convbatch("convert", path, canonical, cwd=folder)
        with serve_in_thread(Provider(script=Script.load(canonical))) as server:
            config = folder / "estimate.toml"
            config.write_text(CONFIG.format(url=server.url), encoding="utf-8")
            place = folder / path.stem
            place.mkdir()
            yield from _of_one(path.stem, canonical, config, place, server)


def _of_one(name: str, dataset: Path, config: Path, place: Path, server: Server) -> Iterator[Estimate]:
    def send(model: str, out: str, *more: str | Path, of: Path = dataset) -> list[Entry]:
        begins = len(server.provider.ledger.entries)
        asked = ("run", of, "-m", f"{model}@bench", "-c", config, "-o", place / out, "-j", "64", *more)
        _convbatch(*asked, "--no-progress", cwd=place)
        return server.provider.ledger.entries[begins:]

    sampled = place / "sample.jsonl"
    _convbatch("sample", dataset, sampled, "-n", str(PILOT), "--by", "tag", "--by", "length", cwd=place)
    send(OTHER, OTHER)
    for model in MODELS:
        pilot = place / f"{model}-pilot"
        send(model, pilot.name, of=sampled)
        rest = send(model, f"{model}-rest", "--reuse", pilot)
        whole = send(model, f"{model}-whole")
        for learned, reuse, real in (
            ("nothing", None, whole),
            (f"a sample of {PILOT} dialogues", pilot, rest),
            (f"all of it, at {OTHER}", place / OTHER, whole),
        ):
            forecast = _forecast(dataset, model, config, reuse, place)
            assert forecast.prices is not None
            # Fewer may be sent: a dialogue ends at an empty reply. With tools more may be.
            if not forecast.estimate.with_tools and forecast.estimate.high.calls < len(real):
                raise Failed(f"{forecast.estimate.high.calls} calls were estimated, {len(real)} were sent")
            for figure, estimated, billed in _FIGURES:
                yield Estimate(
                    dataset=name,
                    target=model,
                    learned=learned,
                    figure=figure,
                    low=estimated(forecast.estimate.low),
                    expected=estimated(forecast.estimate.expected),
                    high=estimated(forecast.estimate.high),
                    real=sum(billed(entry, forecast.prices) for entry in real),
                )


def _forecast(dataset: Path, model: str, config: Path, reuse: Path | None, place: Path) -> Forecast:
    options = RunOptions(
        datasets=(dataset,),
        models=(f"{model}@bench",),
        config=config,
        reuse=None if reuse is None else str(reuse),
        progress=False,
    )
    with contextlib.chdir(place), prepare_dry_run(options) as plan:  # no results/ here: no history to find by default
        (forecast,) = forecast_targets(plan)
    return forecast


def _convbatch(*args: str | Path, cwd: Path) -> None:
    command = [sys.executable, "-m", "convbatch", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")


def _cost(entry: Entry, prices: PriceTable) -> float:
    usage = Usage(input_tokens=entry.input_tokens, output_tokens=entry.output_tokens)
    return float(prices.cost(usage, entry.arrived_at) or Decimal(0))


_FIGURES: tuple[tuple[str, Callable[[Figures], float], Callable[[Entry, PriceTable], float]], ...] = (
    ("calls", lambda figures: figures.calls, lambda _, __: 1),
    ("input tokens", lambda figures: figures.input_tokens, lambda entry, _: entry.input_tokens or 0),
    ("output tokens", lambda figures: figures.output_tokens, lambda entry, _: entry.output_tokens or 0),
    ("cost, USD", lambda figures: float(figures.cost or 0), _cost),
)
