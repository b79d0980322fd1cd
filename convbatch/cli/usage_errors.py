"""What a command line that cannot be parsed means: options of other tools, numbers written in another way.

Pure functions, without Typer: `cli/options.py` finds what is wrong and puts these sentences into the error.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from convbatch.errors import nearest

Elsewhere = Mapping[str, Sequence[str]]
"""Commands that have an option, by option."""


class _Meaning(NamedTuple):
    """What options of other tools do, and how it is said here."""

    names: str
    """Without dashes, in lower case, with `-` between words."""
    ours: Mapping[str, str] = {}
    """Options of ours and what they are about; of these, those that the command has are named."""
    instead: str = ""
    """Where it is set if no option does it, or beside the option."""


_GATEWAY = "it is a key of the gateway: {} under [gateways.NAME] in convbatch.toml"
_SETTING = "it is a setting: {} under [run.settings] in convbatch.toml, or in `settings` of a dialogue"
_DATASET = "it is part of the dataset: {}"
_MEANINGS = (
    _Meaning(
        "timeout request-timeout read-timeout max-time timeout-s timeout-ms http-timeout api-timeout client-timeout",
        {"--attempt-timeout": "one request, e.g. 90s", "--deadline": "the whole run, e.g. 2h"},
    ),
    _Meaning("connect-timeout", {"--attempt-timeout": "one request, e.g. 90s"}, "a connection has 10 s"),
    _Meaning(
        "time-limit max-duration duration working-limit walltime total-timeout max-runtime",
        {"--deadline": "the whole run, e.g. 2h"},
    ),
    _Meaning(
        "max-concurrency max-workers num-workers workers threads num-threads nthreads parallel parallelism n-jobs jobs"
        " max-connections max-tasks batch-size eval-batch-size concurrent max-concurrent num-concurrent in-flight"
        " max-parallel concurrent-requests max-concurrent-requests num-procs processes",
        {"--concurrency": "requests in flight per target"},
    ),
    _Meaning(
        "api-key apikey key token api-token auth-token access-token bearer openai-api-key secret credentials password",
        {"--env-file": "keys from a file of KEY=VALUE lines"},
        'keys are read from the environment: key_env = "NAME" under [gateways.NAME] names the variable',
    ),
    _Meaning(
        "base-url baseurl api-base api-url url endpoint host server base api-host model-base-url openai-api-base"
        " server-url api-endpoint entrypoint",
        instead=_GATEWAY.format('base_url = "https://HOST/v1"'),
    ),
    _Meaning("header headers extra-headers H", instead=_GATEWAY.format('headers = { NAME = "value" }')),
    _Meaning(
        "proxy http-proxy https-proxy", instead=_GATEWAY.format('proxy = "http://HOST:PORT"') + ", or HTTPS_PROXY"
    ),
    _Meaning(
        "k insecure no-verify no-verify-ssl no-check-certificate cacert ca-file ca-bundle cert verify",
        instead="certificates are always verified; for an authority of your own: ca_file under [gateways.NAME]",
    ),
    _Meaning(
        "api-type protocol provider-type eval-type backend api-version api",
        instead='protocol = "openai" (gemini, responses, anthropic) is a key of [gateways.NAME] in convbatch.toml',
    ),
    _Meaning(
        "models provider providers target targets engine deployment deployment-name model-name llm model-id r",
        {"--model": "MODEL@GATEWAY, once for each", "--target": "a target of the run"},
    ),
    _Meaning("temp t sampling-temperature", {"--temperature": ""}),
    _Meaning(
        "max-tokens max-new-tokens max-completion-tokens max-output max-length num-predict max-gen-toks n-predict"
        " max-out-len output-tokens",
        {"--max-output-tokens": "of one reply"},
    ),
    _Meaning("random-seed random-state rng-seed", {"--seed": ""}),
    _Meaning("topp nucleus", instead=_SETTING.format("top_p = 0.9")),
    _Meaning("topk", instead=_SETTING.format("top_k = 40")),
    _Meaning("stop-sequences stop-sequence stop-seqs", instead=_SETTING.format('stop = ["END"]')),
    _Meaning(
        "response-format json-schema json-mode structured-output schema",
        instead=_SETTING.format("response_schema = { … }"),
    ),
    _Meaning("reasoning effort", {"--reasoning-effort": "low, medium, high", "--thinking-budget": "tokens"}),
    _Meaning(
        "thinking thinking-tokens reasoning-tokens max-thinking-tokens enable-thinking",
        {"--thinking-budget": "tokens", "--reasoning-effort": "low, medium, high"},
    ),
    _Meaning(
        "frequency-penalty presence-penalty repetition-penalty min-p logit-bias n-choices best-of",
        {"--param": "e.g. -p frequency_penalty=0.5"},
    ),
    _Meaning(
        "extra-body extra-args model-args generation-config model-config model-params m-arg params body option",
        {"--param": "a field of the request body, e.g. -p a.b=value; once for each"},
    ),
    _Meaning(
        "system system-prompt system-message system-instruction system-text instructions",
        instead=_DATASET.format('"system": "…" in each dialogue'),
    ),
    _Meaning(
        "prompt prompts user message messages query question content",
        instead=_DATASET.format('{"turns": [{"user": "…"}]}, one dialogue a line'),
    ),
    _Meaning("tools tool functions tool-choice", instead=_DATASET.format('"tools": [...] in each dialogue')),
    _Meaning(
        "dataset datasets data dataset-path data-path dataset-name input input-file input-path in file tests test-file"
        " task tasks path dataset-args dataset-dir",
        {"--dataset": "an edited dataset to judge by"},
        "datasets are named without an option: convbatch run FILE.jsonl",
    ),
    _Meaning(
        "output output-dir output-file output-path outdir out-dir save save-to save-path log-dir work-dir result-dir"
        " results-dir results export export-path dest outfile write-out",
        {"--out": "a path"},
    ),
    _Meaning(
        "format output-format csv xlsx html md markdown excel parquet junit junit-xml fmt",
        {"--out": "the ending of the name decides, e.g. -o FILE.json", "--json": "on stdout"},
    ),
    _Meaning("json-output as-json", {"--json": "on stdout", "--out": "-o FILE.json"}),
    _Meaning(
        "repeat runs trials times iterations n-samples num-repeats num-trials num-generations n-runs passes",
        {"--repeats": "how often each dialogue is replayed"},
    ),
    _Meaning(
        "max-samples num-samples samples num-examples first first-n filter-first-n head number num-prompts max-items"
        " num-requests count size num limit-samples",
        {"--limit": "the first N dialogues", "--sample": "N at random", "--size": ""},
    ),
    _Meaning("filter-sample random-sample subsample sample-size", {"--sample": "N at random", "--size": ""}),
    _Meaning("sample-id filter-pattern filter-id dialogue dialogue-id only filter ids", {"--id": "a dialogue's id"}),
    _Meaning("filter-metadata tags filter-tag category subset subset-list", {"--tag": ""}),
    _Meaning(
        "filter-failing failed-only failed retry-failed rerun-failed last-failed lf filter-errors-only",
        {"--only-failed": "of an earlier run", "--failed": ""},
    ),
    _Meaning(
        "grader grader-model judge-model judge-model-args scorer model-grader model-graded eval-model",
        {"--judge": "MODEL@GATEWAY"},
    ),
    _Meaning(
        "fail-threshold threshold pass-rate min-pass-rate pass-rate-threshold fail-on-error min-score",
        {"--fail-under": "a share of dialogues, e.g. 0.95", "--margin": "the largest accepted loss"},
    ),
    _Meaning(
        "budget max-budget cost-limit max-spend limit-cost max-usd max-price spend-limit",
        {"--max-cost": "with its currency, e.g. 5USD"},
    ),
    _Meaning(
        "max-total-tokens total-tokens tokens-total token-budget max-token-budget token-cap tokens-limit",
        {"--max-tokens-total": "input and output of the whole run, e.g. 2M"},
    ),
    _Meaning(
        "max-calls max-api-calls request-limit requests-limit call-limit request-cap request-budget",
        {"--max-requests": "of the whole run, retries included"},
    ),
    _Meaning(
        "retries max-retries retry num-retries max-retry retry-count attempts retry-attempts retry-on-error",
        {"--max-attempts": "attempts per turn"},
    ),
    _Meaning(
        "delay sleep wait rate-limit rate rps qps requests-per-second requests-per-minute request-rate",
        {"--rpm": "requests per minute"},
    ),
    _Meaning("tokens-per-minute token-limit tpm-limit", {"--tpm": "tokens per minute"}),
    _Meaning("requests-per-day daily-limit", {"--rpd": "requests per day"}),
    _Meaning(
        "cache no-cache use-cache cache-dir no-write rerun cached",
        {"--reuse": "an earlier run's replies to identical requests"},
        "without it every request is sent",
    ),
    _Meaning("resume continue retry-errors restart", instead="a run is continued by: convbatch resume RUN"),
    _Meaning("debug log-level loglevel trace d", {"--verbose": "", "--log": "into a file"}),
    _Meaning("log-file logfile", {"--log": ""}),
    _Meaning("quiet silent q no-progress-bar no-tqdm no-progressbar display progress", {"--no-progress": ""}),
    _Meaning("dry dryrun plan estimate preview what-if", {"--dry-run": ""}),
    _Meaning("env env-path dotenv env-files environment", {"--env-file": ""}),
    _Meaning("streaming", {"--stream": ""}),
    _Meaning("no-stream", instead="replies are streamed only with --stream, or stream = true in the config"),
    _Meaning(
        "yes y force f overwrite assume-yes no-input",
        {"--out": "another folder"},
        "nothing is asked, and no run is written over",
    ),
    _Meaning("share view open browser", instead="look at a run with: convbatch view RUN, or convbatch show RUN"),
    _Meaning("cfg conf config-file configuration settings", {"--config": "convbatch.toml or another file"}),
    _Meaning("group-by groupby groups", {"--by": "model, gateway, tag …"}),
    _Meaning("columns column value values wide-format side-by-side", {"--wide": "reply, cost, passed …"}),
    _Meaning("history-mode context mode", {"--history": "live, script or last"}),
    _Meaning("invoice usage-log log-csv billing", {"--bill": "a gateway's usage log"}),
    _Meaning("significance confidence p-value", {"--alpha": ""}),
    _Meaning("tolerance max-loss", {"--margin": "the largest accepted loss"}),
    _Meaning("exchange-rate to-currency", {"--currency": "e.g. CNY"}),
    _Meaning("version v", instead="`convbatch --version` prints it"),
)
_BY_NAME = {name: meaning for meaning in _MEANINGS for name in meaning.names.split()}
_SECONDS = frozenset({"--attempt-timeout", "--deadline"})


def unknown_option(name: str, value: str | None, own: Collection[str], elsewhere: Elsewhere) -> str:
    """Return what to write in place of an option that a command does not have.

    Args:
        name: The option as typed.
        value: The word after it, if there is one; it is named only where it is a number, because it may be a key.
        own: The options that the command has.
        elsewhere: The commands that have other options.
    """
    plain = unicodedata.normalize("NFKC", name).strip("-").replace("_", "-")
    plain = plain if len(plain) == 1 else plain.lower()
    number = value if value is not None and re.fullmatch(r"\d+(\.\d+)?", value) else None
    swapped = next((one for one in own if one.strip("-") == plain), None)
    if swapped is not None:
        return f"did you mean {_option(swapped, '', number)}?"
    meaning = _BY_NAME.get(plain)
    if meaning is not None and (told := _told(meaning, own, elsewhere, number)):
        return told
    if (told := _of_others(f"--{plain}", elsewhere)) is not None:
        return told
    near = None if len(plain) < 3 else nearest(plain, [one.removeprefix("--") for one in own if one.startswith("--")])
    if near is not None:
        return f"did you mean {_option('--' + near, '', number)}?"
    return _key_of_config(plain) or "-h lists the options"


def _told(meaning: _Meaning, own: Collection[str], elsewhere: Elsewhere, number: str | None) -> str:
    ours = [_option(option, note, number) for option, note in meaning.ours.items() if option in own]
    parts = [f"did you mean {' or '.join(ours)}?"] if ours else []
    if meaning.instead:
        parts.append(meaning.instead)
    if not parts:
        parts = [told for option in meaning.ours if (told := _of_others(option, elsewhere))][:1]
    return " ".join(parts)


def _option(option: str, note: str, number: str | None) -> str:
    value = "" if number is None else f" {number}{'s' if option in _SECONDS else ''}"
    return f"{option}{value}" + (f" ({note})" if note else "")


def _of_others(option: str, elsewhere: Elsewhere) -> str | None:
    commands = elsewhere.get(option, ())
    named = ", ".join(f"`{command}`" for command in commands)
    return f"{option} is an option of {named}, not of this command" if commands else None


def _key_of_config(plain: str) -> str | None:
    """Return where an option's name is a key of the config; those modules are imported only for this."""
    from convbatch.config.validators import GATEWAY_KEYS, RUN_KEYS
    from convbatch.dialogue import SETTING_NAMES

    key = plain.replace("-", "_")
    if key in SETTING_NAMES:
        return _SETTING.format(f"{key} = …")
    if key in RUN_KEYS:
        return f"it is a key of the config: {key} = … under [run] in convbatch.toml"
    return _GATEWAY.format(f"{key} = …") if key in GATEWAY_KEYS else None


_DASHES = "\uff0d\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\ufe58"


def odd_dash(arg: str, own: Collection[str]) -> str | None:
    """Return what is wrong with the dashes or the `=` of a word of the command line; None where nothing is."""
    rest = arg.lstrip(_DASHES + "-")
    if re.match(f"-?[{_DASHES}]", arg):
        char = next(char for char in arg if char in _DASHES)
        name = f"U+{ord(char):04X} ({unicodedata.name(char).lower()})"
        plain = f"-{rest}" if f"-{rest}" in own else f"--{rest}"
        return f"{arg}: {name} is no hyphen: write {plain}" if rest else None
    if re.fullmatch(r"-[a-z][a-z-]{2,}", arg) and f"-{arg}" in own:
        return f"{arg}: a long option begins with two hyphens: write -{arg}"
    if re.match(r"-[a-zA-Z][=\uff1d]", arg) and arg[:2] in own:
        return f"{arg[:3]}…: a short option has no {arg[2]} behind it: write {arg[:2]} {arg[3:]}"
    return None


# Numbers

_EXAMPLES = {
    **{"--concurrency": "16", "--rpm": "60", "--tpm": "100000", "--rpd": "1000", "--limit": "10", "--sample": "100"},
    **{"--size": "100", "--repeats": "3", "--max-output-tokens": "256", "--judge-max-output-tokens": "1024"},
    **{"--seed": "1", "--thinking-budget": "1024", "--max-attempts": "5", "--temperature": "0.7", "--port": "8080"},
}
_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "万": 10_000, "w": 10_000}
_WHOLE, _FRACTION = "a whole number", "a number"


def number_problem(
    names: Sequence[str], raw: str, *, whole: bool, least: float | None = None, most: float | None = None
) -> str:
    """Return what is wrong with a number, and what to type.

    Args:
        names: The names of the option.
        raw: Its value as typed.
        whole: Whether only whole numbers are taken.
        least: The smallest number that is taken.
        most: The largest number that is taken.
    """
    option = next((name for name in names if name in _EXAMPLES), names[0])
    shown = min(names, key=len)
    value = _read_number(raw)
    kind = _WHOLE if whole else _FRACTION
    bounds = "" if least is None else f" of at least {least:g}" if most is None else f" from {least:g} to {most:g}"
    if value is None or not math.isfinite(value):
        default = "" if option not in _EXAMPLES else f", e.g. {shown} {_EXAMPLES[option]}"
        leave_out = "; leave it out for the default" if _is_endless(raw) and option != "--size" else ""
        return f"{raw!r} is not {kind}: write {kind}{bounds}{default}{leave_out}"
    if least is not None and value < least:
        return f"{raw} is too small: it takes {kind}{bounds}, e.g. {shown} {_EXAMPLES.get(option, f'{least:g}')}"
    if most is not None and value > most:
        return f"{raw} is too large: it takes {kind}{bounds}"
    if whole and value != int(value):
        lower = max(int(value), int(least or 0))
        return f"{raw} is not a whole number: write {shown} {lower} or {shown} {int(value) + 1}"
    return f"{raw!r} is not written as {kind}: write {shown} {int(value) if value == int(value) else value:.15g}"


def _is_endless(raw: str) -> bool:
    return raw.strip().lower() in ("max", "unlimited", "inf", "infinity", "none", "all", "auto", "default", "∞")


def _read_number(raw: str) -> float | None:
    """Return the number that a text means: `0,5`, `1,000`, `10k`, `= 4`, full-width digits; None if it is none."""
    text = unicodedata.normalize("NFKC", raw).strip(" \"'“”‘’=:").lower().replace("−", "-").replace("–", "-")
    text = re.sub(r"(?<=\d)[_ '](?=\d{3}\b)", "", text)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text) and not text.startswith(("0,", "-0,")):
        text = text.replace(",", "")
    match = re.fullmatch(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\s*([km万w]?)", text)
    if match is None:
        return None
    return float(match[1].replace(",", ".")) * _FACTORS[match[2]]
