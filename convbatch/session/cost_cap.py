"""`--max-cost` → a cap, or an error that names what is missing for one: a price, an exchange rate, a limit on output.

`--max-tokens-total` needs a limit on output as well, `--max-requests` nothing.

A cap that cannot be guaranteed is refused before anything is sent. How it is enforced is `engine/budget.py`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from convbatch.config.gateways import Target
from convbatch.dataset.reader import count_of
from convbatch.dialogue import Dialogue, Settings, effective_settings
from convbatch.engine.plan import max_output_bound
from convbatch.errors import SetupError
from convbatch.journal.manifest import Manifest, ManifestOptions, ManifestTarget
from convbatch.pricing import NOT_CURRENCIES, ExchangeRates, Money, display_amount, parse_money

SHOWN = 5
_WORST = {"--max-cost": "a worst-case cost", "--max-tokens-total": "the most tokens"}


def resolve_caps(
    caps: ManifestOptions, manifest: Manifest, targets: Sequence[Target], command_line: Settings, copy: Path | None
) -> Money | None:
    """Return the cap on the cost of a run after checking that it and the others can be guaranteed.

    Args:
        caps: The caps, as `run.json` has them. That on the cost is `5USD`, or a bare number if all targets bill one
            currency. None = no cap.
        manifest: Holds the prices of the targets and of the current judge, and exchange rates.
        targets: The targets of the session.
        command_line: Settings that take precedence over all others.
        copy: The run's dataset; None if only a judge is asked.

    Raises:
        SetupError: It cannot be guaranteed; the hint names what to add.
    """
    cap = None if caps.max_cost is None else _resolve_cost(caps.max_cost, manifest)
    option = "--max-cost" if cap is not None else "--max-tokens-total" if caps.max_tokens_total is not None else None
    if option is not None and copy is not None:
        _refuse_unlimited(option, targets, command_line, copy)
    if option is not None and manifest.current_judge is not None:
        _refuse_unlimited_judge(option, manifest.current_judge)
    return cap


def _resolve_cost(text: str, manifest: Manifest) -> Money:
    money = parse_money(text)
    if money is None or money[0] <= 0:
        raise SetupError("--max-cost needs an amount of money", found=repr(text), hint=_amount_hint(text))
    if (code := NOT_CURRENCIES.get(money[1] or "")) is not None:
        hint = f"did you mean {display_amount(money[0])}{code}?"
        raise SetupError(f"--max-cost: {money[1]} is no currency code", found=repr(text), hint=hint)
    currencies = _currencies(manifest)
    cap = Money(amount=money[0], currency=money[1] or _single_currency(currencies, text))
    _refuse_unrelated(cap, currencies, manifest.rates)
    return cap


_SIGNS = {"$": "USD", "US$": "USD", "€": "EUR", "£": "GBP", "¥": "CNY", "元": "CNY", "块": "CNY", "₹": "INR"}
_SPOKEN = {"DOLLAR": "USD", "BUCK": "USD", "EURO": "EUR", "YUAN": "CNY", "POUND": "GBP", "YEN": "JPY", "USDT": "USD"}


def _amount_hint(text: str) -> str:
    """Return what to write for an amount in another form, such as $5, USD 5 or 5,50EUR."""
    plain = unicodedata.normalize("NFKC", text).strip().upper()
    match = re.fullmatch(r"(\D*?)\s*(\d[\d.,]*)\s*(\D*)", plain)
    if match is None or bool(match[1]) == bool(match[3]):
        return "write 5USD or 0.50CNY"
    name = match[1] or match[3]
    code = _SIGNS.get(name) or _SPOKEN.get(name.removesuffix("S")) or NOT_CURRENCIES.get(name) or name
    has_thousands = re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", match[2]) is not None
    number = match[2].replace(",", "" if has_thousands else ".")
    if not re.fullmatch(r"[A-Z]{3}", code) or (found := parse_money(f"{number}{code}")) is None or found[0] <= 0:
        return "write 5USD or 0.50CNY"
    return f"did you mean {number}{code}?"


def price_config_example(target: ManifestTarget) -> str:
    """Return an example of the config line that gives a target of `run.json` a price."""
    currency = "" if target.gateway.currency else ' currency = "USD",'
    table = f"prices.{_quoted(target.gateway.name)}.{_quoted(target.model)}"
    return f"{table} = {{{currency} input = 0.30, output = 2.50 }}  # per million tokens"


def _quoted(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else json.dumps(name)


def _currencies(manifest: Manifest) -> dict[str, str]:
    """Return the currency of each target, by target name; raises `SetupError` for a target without prices."""
    found: dict[str, str] = {}
    for target in (*manifest.targets, *manifest.judges[-1:]):
        if target.prices is None:
            raise SetupError(
                f"--max-cost needs a price for {target.name}, which has none",
                hint=f"add a line to the config, above its tables: {price_config_example(target)}",
            )
        found[target.name] = target.prices.currency
    return found


def _single_currency(currencies: Mapping[str, str], text: str) -> str:
    kinds = sorted(set(currencies.values()))
    if len(kinds) > 1:
        raise SetupError(
            f"--max-cost {text} names no currency, and the targets bill {' and '.join(kinds)}",
            hint=f"write --max-cost {text.strip()}{kinds[-1]}",
        )
    return kinds[0]


def _refuse_unrelated(cap: Money, currencies: Mapping[str, str], exchange_rates: ExchangeRates) -> None:
    for name, currency in currencies.items():
        if exchange_rates.convert(Money(amount=cap.amount, currency=currency), cap.currency) is None:
            bills = sorted(set(currencies.values()))
            raise SetupError(
                f"--max-cost is in {cap.currency}, and {name} bills {currency}",
                hint=f'add [rates] "{currency}/{cap.currency}" = ... to the config'
                + ("" if cap.currency in bills or len(bills) > 1 else f", or give the budget in {bills[0]}"),
            )


def _refuse_unlimited(option: str, targets: Sequence[Target], command_line: Settings, copy: Path) -> None:
    """Refuse turns without a limit on output, because their worst-case cost is unlimited."""
    from convbatch.dataset.snapshot import read_copy

    unlimited = 0
    places: list[str] = []
    for _, dialogue in read_copy(copy):
        scripts = [(target, target.asked(dialogue)) for target in targets]
        for number, turn in enumerate(dialogue.turns, 1):
            bare = [
                target.name
                for target, script in scripts
                if turn.ask and _output_bound(target, script, number, command_line) is None
            ]
            unlimited += len(bare)
            if len(places) < SHOWN:
                places += [f"{dialogue.id!r} turn {number} at {name}" for name in bare]
    if unlimited:
        never = next((t.gateway.name for t in targets if "max_output_tokens" in t.gateway.unset), None)
        raise SetupError(
            f"{option} needs {_WORST[option]} for every call; {count_of(unlimited, 'turn')} set no "
            "max_output_tokens, or ask for several replies at once",
            found="; ".join(places[:SHOWN]) + ("; ..." if unlimited > SHOWN else ""),
            hint="add --max-output-tokens N, or max_output_tokens under [run.settings]"
            if never is None
            else _unset_hint(option, never),
        )


def _output_bound(target: Target, dialogue: Dialogue, turn: int, command_line: Settings) -> int | None:
    settings = effective_settings(
        command_line=command_line,
        turn=dialogue.turns[turn - 1].settings,
        dialogue=dialogue.settings,
        target=target.gateway.settings,
        unset=target.gateway.unset,
    )
    return max_output_bound(settings)


def _refuse_unlimited_judge(option: str, judge: ManifestTarget) -> None:
    gateway = judge.gateway
    if max_output_bound(gateway.settings.without(gateway.unset)) is None:
        table = f"gateways.{_quoted(gateway.name)}.models.{json.dumps(judge.model)}.settings"
        never = "max_output_tokens" in gateway.unset
        raise SetupError(
            f"{option} needs {_WORST[option]} for every call; the judge {judge.name} has no limit on output",
            hint=_unset_hint(option, gateway.name)
            if never
            else f"add to the config: [{table}] max_output_tokens = 1000",
        )


def _unset_hint(option: str, gateway: str) -> str:
    return f"remove max_output_tokens from `unset` of the gateway {gateway!r}, or run without {option}"
