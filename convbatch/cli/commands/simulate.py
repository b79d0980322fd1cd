"""`simulate`: its parameters, and one call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from convbatch.cli.options import completing
from convbatch.errors import SetupError, did_you_mean


def simulate(
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 = any free one.")] = 0,
    latency: Annotated[str, typer.Option("--latency", help="Delay before a reply, e.g. 50ms.")] = "0",
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="Requests per minute, per key and model.")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens per minute, per key and model.")] = None,
    rpd: Annotated[int | None, typer.Option("--rpd", min=1, help="Requests per day, per key and model.")] = None,
    limit_model: Annotated[
        str,
        typer.Option(
            "--limit-model",
            help="How limits are counted: fixed | sliding | bucket | quantised.",
            autocompletion=completing("limit_model"),
        ),
    ] = "sliding",
    faults: Annotated[
        Path | None, typer.Option("--faults", help="A fault script: which requests fail, and how.")
    ] = None,
    script: Annotated[
        list[Path] | None, typer.Option("--script", help="Datasets with the scripted replies of sim-good.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME[=SIM]", help="Also answer to this model name, as sim-good or as SIM."),
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Write every request to this file, as JSON lines.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed, model and history give the same reply.")] = 0,
    gateway: Annotated[
        str | None,
        typer.Option(
            "--gateway",
            help="Answer as behind a gateway: new-api | litellm | openrouter.",
            autocompletion=completing("server"),
        ),
    ] = None,
    served_tier: Annotated[
        str | None, typer.Option("--tier", help="The service tier that serves every request, whatever it asks for.")
    ] = None,
    batch_time: Annotated[str | None, typer.Option("--batch-time", help="How long a batch job takes, e.g. 2s.")] = None,
) -> None:
    """Run the simulator as a server of all four protocols; ends with Ctrl-C.

    Example: convbatch simulate --port 8080 --latency 50ms --script datasets/quickstart.jsonl
    """
    from convbatch.session.durations import parse_seconds
    from convbatch.simulator.fault_script import FaultError
    from convbatch.simulator.gateways import GATEWAYS
    from convbatch.simulator.limits import LimitModel
    from convbatch.simulator.replies import ScriptError, UnknownModel
    from convbatch.simulator.server import serve

    known = get_args(LimitModel)
    if limit_model not in known:
        raise SetupError(f"unknown limit model {limit_model!r}", hint=did_you_mean(limit_model, known))
    if gateway is not None and gateway not in GATEWAYS:
        raise SetupError(f"unknown gateway to simulate {gateway!r}", hint=did_you_mean(gateway, GATEWAYS))
    try:
        serve(
            port=port,
            latency_s=0.0 if latency == "0" else parse_seconds(latency, "--latency") or 0.0,
            rpm=rpm,
            tpm=tpm,
            rpd=rpd,
            limit_model=cast("LimitModel", limit_model),
            faults=faults,
            script=script or [],
            models=models or [],
            ledger=ledger,
            seed=seed,
            gateway=gateway,
            served_tier=served_tier,
            batch_s=None if batch_time is None else parse_seconds(batch_time, "--batch-time"),
        )
    except (FaultError, ScriptError, UnknownModel, OSError) as error:
        raise SetupError(f"the simulator cannot start: {error}") from None
