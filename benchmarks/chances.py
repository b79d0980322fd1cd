"""Sections that play simulated worlds: error rates of `compare` and `audit`, and how much of a quota is used."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.alarms import alarms
from benchmarks.bench import Bench, Row
from benchmarks.cheats import HEAD, HONEST, cheat_rates
from benchmarks.preferences import preference_rates
from benchmarks.quotas import played, quotas, steady
from benchmarks.ranks import RankRates, rank_rates
from benchmarks.worlds import ALPHA, MARGINS, GateRates, gate_rates

POINT = 0.01


def compare(bench: Bench) -> list[Row]:
    """Measure false alarms and coverage of `compare` on simulated data with known effects."""
    providers = bench.size.providers
    rows: list[Row] = []
    for one in alarms(providers):
        place = f"{one.metric}, {one.dialogues} dialogues" + (f" x {one.repeats}" if one.repeats > 1 else "")
        liberal = one.alarms - 0.05
        rows.append(
            Row(
                what=f"false alarms, {place}",
                against="nominal" if one.turn_alarms is None else f"McNemar over turns {one.turn_alarms:.1%}",
                theirs="5.0%",
                ours=f"{one.alarms:.1%}",
                ratio=one.alarms / 0.05,
                goal="<= 6%",
                met=liberal <= POINT,
            )
        )
        rows += [
            Row(
                what=f"{what}, {place}",
                against="nominal",
                theirs="95.0%",
                ours=f"{share:.1%}",
                ratio=share / 0.95,
                goal=">= 94%",
                met=share >= 0.95 - POINT,
            )
            for what, share in (("coverage of intervals", one.coverage), ("coverage of harm bounds", one.bound))
        ]
    error = (0.05 * 0.95 / providers) ** 0.5
    bench.notes.append(f"compare: {providers:,} data sets per figure, standard error {error:.2%}")
    return rows


def limits(bench: Bench) -> list[Row]:
    """Measure how much of a hidden quota is used from the second minute on, and how many requests are refused."""
    rows: list[Row] = []
    for quota in quotas(bench.size.quotas):
        usage = steady(played(quota))
        share = usage.passed / (quota.per_minute * (quota.minutes - 1))
        rows.append(
            Row(
                what=f"requests/min, {quota}",
                against="the quota",
                theirs=f"{quota.per_minute:,}",
                ours=f"{share * quota.per_minute:,.1f}, {usage.refused_share:.1%} refused",
                ratio=share,
                goal=">= 0.9, <= 5%",
                met=share >= 0.9 and usage.refused_share <= 0.05,
            )
        )
    bench.notes.append("limits: ten minutes in virtual time, replies after 50 ms, -j 16, without the first minute")
    return rows


def gates(bench: Bench) -> list[Row]:
    """Measure bounds on harm, false passes and false regressions of `compare` where few dialogues break."""
    cells: dict[tuple[str, str], list[GateRates]] = {}
    for one in gate_rates(bench.size.gates, refused=bench.refused):
        cells.setdefault((one.world.name, one.metric), []).append(one)
    rows: list[Row] = []
    for (world, metric), sizes in cells.items():
        place = f"{metric}, {world}"
        rows.append(_bound_row(place, sizes))
        if sizes[0].harm == 0:
            alarms = max(one.regressions for one in sizes)
            what = f"false regressions, {place}"
            rows.append(_share_row(what, "nominal", ALPHA, alarms, "<= 5%", alarms <= ALPHA + POINT / 2))
            rows += [_pass_row("earned", place, one, n) for one in sizes for n in range(len(MARGINS))]
        else:
            for n in (n for n, margin in enumerate(MARGINS) if sizes[0].harm >= margin - 1e-9):
                rows.append(_pass_row("false", place, max(sizes, key=lambda one: one.passes[n]), n))
    for name in {name: None for one in cells.values() for name in one[0].refused}:
        worst = min((one for sizes in cells.values() for one in sizes), key=lambda one: one.refused[name])
        missed = sum(one.refused[name] < 0.95 - POINT for sizes in cells.values() for one in sizes)
        bench.notes.append(
            f"gates: refused bound ({name}) holds below 94% in {missed} of {sum(map(len, cells.values()))} cases, "
            f"at worst {worst.refused[name]:.1%}: {worst.metric}, {worst.dialogues} dialogues, {worst.world.name}"
        )
    count = bench.size.gates
    error = (ALPHA * (1 - ALPHA) / count) ** 0.5
    bench.notes.append(
        f"gates: {count:,} data sets per number of dialogues below 100, else {count // 2:,}; standard error at 95%: "
        f"{error:.1%}, {error * 2**0.5:.1%}"
    )
    return rows


def audit(bench: Bench) -> list[Row]:
    """Measure false alarms of `audit` between honest gateways, and how often it finds cheats."""
    worlds = bench.size.audits
    rates = cheat_rates(worlds)
    rows = [
        Row(
            what=f"{'false alarms' if one.name in HONEST else 'found'}: {one.name}",
            against="`consistent`",
            theirs=f"{one.share('consistent'):.1%}",
            ours=f"{one.share('different'):.1%}",
            ratio=one.share("different"),
            goal="<= 5%" if one.name in HONEST else "",
            met=one.share("different") <= ALPHA + POINT if one.name in HONEST else None,
        )
        for one in rates
    ]
    error = (ALPHA * (1 - ALPHA) / worlds) ** 0.5
    bench.notes.append(f"audit: {worlds:,} worlds a row, standard error of 5% {error:.1%}; for docs/audit.md:")
    bench.notes += ["", HEAD, *(one.markdown() for one in rates)]
    return rows


def rank(bench: Bench) -> list[Row]:
    """Measure false claims and coverage of `rank`, the worst of all sizes of a shape and a metric."""
    worlds = bench.size.ranks
    groups: dict[str, list[RankRates]] = {}
    for one in rank_rates(worlds):
        groups.setdefault(f"{one.shape}, {one.metric}, {one.targets} targets", []).append(one)
    rows: list[Row] = []
    for name, sizes in groups.items():
        worst = max(sizes, key=lambda one: one.false)
        rows.append(
            Row(
                what=f"any false claim, {name}",
                against="each pair at 5 %",
                theirs=f"{max(one.unadjusted for one in sizes):.1%}",
                ours=f"{worst.false:.1%}",
                ratio=worst.false / ALPHA,
                goal="<= 5%",
                met=worst.false <= ALPHA + POINT,
            )
        )
        held = min(one.pairs_covered for one in sizes)
        rows.append(
            _share_row(f"intervals of all pairs hold, {name}", "nominal", 1 - ALPHA, held, ">= 94%", held >= 0.94)
        )
    bench.notes.append(f"rank: {worlds:,} worlds a row, a tenth of it for turn_pass; the worst of 10 to 400 dialogues")
    return rows


def prefer(bench: Bench) -> list[Row]:
    """Measure false claims and coverage of `prefer`."""
    worlds = bench.size.preferences
    rows: list[Row] = []
    for one in preference_rates(worlds):
        name = f"{one.shape}, {one.targets} targets, {one.dialogues} dialogues"
        met = one.false <= ALPHA + POINT
        rows.append(_share_row(f"any false claim, {name}", "nominal", ALPHA, one.false, "<= 5%", met))
        for what, held in (("pairs", one.pairs_covered), ("targets", one.targets_covered)):
            rows.append(
                _share_row(f"intervals of all {what} hold, {name}", "nominal", 1 - ALPHA, held, ">= 94%", held >= 0.94)
            )
    bench.notes.append(f"prefer: {worlds:,} worlds a row, dialogues of 1, 2, 4 or 8 comparisons")
    return rows


def _bound_row(place: str, sizes: Sequence[GateRates]) -> Row:
    worst = min(sizes, key=lambda one: one.held)
    against = f"90% interval, worst of {sizes[0].dialogues} to {sizes[-1].dialogues}"
    by_t = min(one.refused["t"] for one in sizes)
    met = worst.held >= 0.95 - POINT
    return _share_row(f"harm bounds that hold, {place}", against, by_t, worst.held, ">= 94%", met)


def _pass_row(kind: str, place: str, one: GateRates, margin: int) -> Row:
    what = f"{kind} passes, margin {MARGINS[margin]:g}, {one.dialogues} dialogues, {place}"
    ours, by_t = one.passes[margin], one.passes_by_t[margin]
    if kind == "earned":
        return _share_row(what, "by the 90% interval", by_t, ours)
    return _share_row(what, "by the 90% interval", by_t, ours, "<= 6%", ours <= ALPHA + POINT)


def _share_row(what: str, against: str, theirs: float, ours: float, goal: str = "", met: bool | None = None) -> Row:
    ratio = ours / theirs if theirs else float("nan")
    return Row(what=what, against=against, theirs=f"{theirs:.1%}", ours=f"{ours:.1%}", ratio=ratio, goal=goal, met=met)
