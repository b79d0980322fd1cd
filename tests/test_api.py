"""The Python API: run, replay and load; errors; running event loops; cancellation."""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

import convbatch as cb
from convbatch.dataset.in_memory import in_memory_dataset
from convbatch.dataset.reader import Reader
from convbatch.errors import Problem, SetupError, with_keywords
from convbatch.session.options import ResumeOptions, RunOptions, option_fields
from convbatch.session.prepare import changed_sources, prepare_resume
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server, serve_in_thread
from tests.conftest import environment, write_dataset
from tests.support.canary import CANARY_ENV
from tests.support.ledger_laws import statuses
from tests.support.tables import each


@dataclass(frozen=True, slots=True)
class Sim:
    """A simulator shared by all tests."""

    provider: Provider
    url: str


@pytest.fixture(scope="module")
def sim() -> Iterator[Sim]:
    provider = Provider()
    with serve_in_thread(provider) as server:
        yield Sim(provider, server.url)


def config(url: str) -> str:
    lines = ['protocol = "gemini"', f"base_url = {json.dumps(url)}", f'key_env = "{CANARY_ENV}"']
    return "\n".join(["[gateways.here]", *lines, "[run]", 'models = ["sim-good@here"]', ""])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sim: Sim) -> Path:
    """A working directory with a dataset of six turns and a configuration."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "d.jsonl", 3, 2)
    (tmp_path / "convbatch.toml").write_text(config(sim.url))
    return tmp_path


def test_run_returns_data_frames(folder: Path) -> None:
    run = cb.run("d.jsonl", models=["sim-good@here", "sim-drift@here"], out=folder / "out")
    assert statuses(run.turns) == {"ok": 12}
    assert len(run.conversations) == 6
    assert len(run.attempts) == 12
    assert list(run.wide("reply").columns) == ["sim-good@here", "sim-drift@here"]
    assert run.wide("reply").index.names == ["dialogue", "repeat", "turn"]


@pytest.mark.parametrize("progress", [True, False])
def test_nothing_is_printed_without_progress(progress: bool, capfd: pytest.CaptureFixture[str]) -> None:
    run = cb.run("d.jsonl", models="no-such-model@here", progress=progress)
    assert list(run.suspended) == ["no-such-model@here"]
    printed = capfd.readouterr()
    assert printed.out == ""
    assert ("is suspended" in printed.err) == progress
    assert progress or printed.err == ""


def test_waits_of_sent_turns_are_zero_and_not_null() -> None:
    run = cb.run("d.jsonl", models="sim-good@here", out="out")
    waits = ["limiter_wait_s", "retry_wait_s"]
    assert run.turns[waits].notna().to_numpy().all()
    assert run.attempts[waits].notna().to_numpy().all()
    assert set(run.turns["retry_wait_s"]) == {0.0}
    assert cb.run("d.jsonl", models="sim-good@here", reuse="out").turns[waits].isna().to_numpy().all()


def test_one_model_may_be_a_text_and_the_config_is_found() -> None:
    by_name = cb.run("d.jsonl", models="sim-good@here", ids="d00001", out="a")
    by_config = cb.run(["d.jsonl"], ids=["d00001"], out="b")
    assert by_name.targets == by_config.targets == ("sim-good@here",)
    assert len(by_name.turns) == len(by_config.turns) == 2


def test_load_finds_a_run_by_path_name_or_latest() -> None:
    run = cb.run("d.jsonl")
    assert run.path.parent == Path("results")
    assert {cb.load(where).name for where in (run.path, str(run.path), run.name, "latest")} == {run.name}


def test_an_unfinished_run_is_returned_with_every_row() -> None:
    run = cb.run("d.jsonl", models="no-such-model@here", out="out")
    assert statuses(run.turns) == {"pending": 6}


def test_empty_tuples_are_the_default() -> None:
    run = cb.run("d.jsonl", models=(), ids=(), tags=(), params={}, out="out")
    assert statuses(run.turns) == {"ok": 6}


def test_reuse_takes_a_path() -> None:
    first = cb.run("d.jsonl", out="first")
    again = cb.run("d.jsonl", out="again", reuse=first.path)
    assert list(again.turns["reused_from"]) == ["first"] * 6


@each(
    ("options", "message"),
    [
        ({"modles": "x"}, "unknown option 'modles'"),
        ({"deadline": "5s"}, "did you mean 'deadline_s'"),
        ({"repeats": 0}, "repeats= must be a whole number of at least 1"),
        ({"concurrency": 0}, "concurrency= must be a whole number of at least 1"),
        ({"rpm": 0.5}, "rpm= must be a whole number of at least 1"),
        ({"tags": 5}, "tags= must be a text or several"),
        ({"ids": [5]}, "ids= must be a text or several"),
        ({"ids": []}, "ids= is empty"),
        ({"models": []}, "models= is empty"),
        ({"tags": pd.Series([], dtype=str)}, "tags= is empty"),
        ({"max_requests": True}, "max_requests= must be a text"),
        ({"max_requests": "9" * 60}, "max_requests= is too large"),
        ({"history": 5}, "history= must be a text"),
        ({"config": 5}, "config= must be a text or a path"),
        ({"limit": np.int64(0)}, "limit= must be a whole number of at least 1"),
        ({"limit": "3"}, "limit= must be a whole number of at least 1"),
        ({"deadline_s": -1}, "deadline_s= must be a number of seconds above 0"),
        ({"attempt_timeout_s": float("nan")}, "attempt_timeout_s= must be a number of seconds above 0"),
        ({"temperature": "hot"}, "temperature= must be a number"),
        ({"params": "x"}, "params='x' is not PATH=VALUE"),
        ({"params": 'x={"a": 1e999}'}, 'params="x" starts like JSON but does not parse'),
        ({"max_attempts": True}, "max_attempts= must be a whole number"),
        ({"models": "m"}, 'write models="m@GATEWAY", or add gateways=GATEWAY'),
        ({"models": "sim-good@here", "gateways": "google"}, 'gateways="google" is unused: every models= names'),
        ({"max_cost": 5}, "max_cost= needs a price for sim-good@here"),
        ({"env_file": "none"}, "env_file= takes a file"),
        ({"history": "every"}, "unknown history mode 'every'"),
        ({"models": "m@gogle"}, "did you mean 'google'"),
        ({"reuse": "nothing"}, "there is no run 'nothing'"),
        ({"out": "d.jsonl"}, "cannot create the run folder d.jsonl"),
    ],
)
def test_invalid_options_raise_before_any_request(options: dict[str, Any], message: str, sim: Sim) -> None:
    requests_before = sim.provider.ledger.requests
    with pytest.raises(cb.ConvbatchError) as caught:
        cb.run("d.jsonl", **options)
    assert message in str(caught.value)
    assert sim.provider.ledger.requests == requests_before
    assert not Path("results").exists()


def test_run_and_replay_have_every_option_of_the_command_with_its_default() -> None:
    of_command = {
        field.name: field.default for field, spec in option_fields(RunOptions) if spec.names and not spec.command_only
    }
    for function in (cb.run, cb.replay):
        dataset, *parameters = inspect.signature(function).parameters.values()
        assert dataset.name == "dataset"
        assert {each.name: each.default for each in parameters} == {**of_command, "progress": False, "out": None}
        assert {each.kind for each in parameters} == {inspect.Parameter.KEYWORD_ONLY}
        assert all(f"    {name}: " in str(function.__doc__) for name in of_command)
    assert inspect.iscoroutinefunction(cb.replay)
    assert typing.get_type_hints(cb.run)["return"] is cb.Run


@each(
    ("text", "expected"),
    [
        ("--max-cost 5USD is too little", 'max_cost="5USD" is too little'),
        ("lower -j, or use `convbatch run D -j 2`", "lower concurrency=, or use `convbatch run D -j 2`"),
        ("start: convbatch resume RUN --max-cost 9USD", "start: convbatch resume RUN --max-cost 9USD"),
        ("unknown gateway 'x' in -m a@x", "unknown gateway 'x' in models=\"a@x\""),
        ("no -m names a model", "no models= names a model"),
        ("widen --id or --tag", "widen ids= or tags="),
        ("add --max-output-tokens N", "add max_output_tokens=N"),
        ("--limit 0 selects none", "limit=0 selects none"),
        ("docker --env-file keeps them; --salvage", "docker --env-file keeps them; --salvage"),
        ("jq -c '.[]' IN > OUT", "jq -c '.[]' IN > OUT"),
        ("max-output-tokens of gpt-j", "max-output-tokens of gpt-j"),
    ],
)
def test_messages_name_the_keyword_of_an_option(text: str, expected: str) -> None:
    names = {name: field.name for field, spec in option_fields(RunOptions) for name in spec.names}
    assert with_keywords(text, names) == expected


# --- datasets in memory ----------------------------------------------------------------------------------------------


def dialogues_of(value: Any) -> list[Any]:
    """Return the dialogues of an in-memory dataset, and the texts of its problems."""
    source = in_memory_dataset(value)
    assert source is not None
    return [str(item) if isinstance(item, Problem) else item.dialogue.to_plain() for item in Reader([source])]


def test_dialogues_in_memory_make_the_same_run_as_their_file(folder: Path) -> None:
    dialogues = [json.loads(line) for line in Path("d.jsonl").read_text().splitlines()]
    of_file, of_list = cb.run("d.jsonl", out="a"), cb.run(dialogues, out="b", models="no-such-model@here")
    assert of_list.manifest.dataset.sha256 == of_file.manifest.dataset.sha256
    assert of_list.folder.dataset.read_bytes() == of_file.folder.dataset.read_bytes()
    assert changed_sources(of_list.folder, of_list.manifest) == []
    dialogues[0]["turns"][0]["user"] = "changed later"
    assert prepare_resume(ResumeOptions(run="b")).manifest.dataset == of_list.manifest.dataset


TURN = {"user": "x"}
LOOP: dict[str, Any] = {}
LOOP["turns"] = [LOOP]
FRAME_OF_TURNS = pd.DataFrame(
    {"id": ["a", "a", "b"], "turn": [1, 2, None], "user": ["x", "y", "z"], "assistant": ["r", None, float("nan")]}
)
FRAME_OF_DIALOGUES = pd.DataFrame({"id": ["a", 7], "turns": [[TURN], [TURN]], "system": ["be brief", None]})


@each(
    ("value", "expected"),
    [
        ({"turns": [TURN]}, [{"id": "dataset:0", "turns": [TURN]}]),
        ([{"id": "a", "turns": [TURN]}], [{"id": "a", "turns": [TURN]}]),
        ([{"turns": (TURN,)} for _ in range(2)], [{"id": f"dataset:{n}", "turns": [TURN]} for n in (0, 1)]),
        ([cb.Dialogue.from_plain({"id": "a", "turns": [TURN]})], [{"id": "a", "turns": [TURN]}]),
        ([{"messages": [{"role": "user", "content": "x"}]}], [{"id": "dataset:0", "turns": [TURN]}]),
        ([[{"role": "user", "content": "x"}]], [{"id": "dataset:0", "turns": [TURN]}]),
        (
            FRAME_OF_TURNS,
            [
                {"id": "a", "turns": [{"user": "x", "assistant": "r"}, {"user": "y"}]},
                {"id": "b", "turns": [{"user": "z"}]},
            ],
        ),
        (FRAME_OF_DIALOGUES, [{"id": "a", "system": "be brief", "turns": [TURN]}, {"id": "7", "turns": [TURN]}]),
    ],
)
def test_a_dataset_may_be_values(value: Any, expected: list[Any]) -> None:
    assert dialogues_of(value) == expected


@each(
    ("value", "start"),
    [
        ([{"turns": [TURN]}, {"turns": [{"usr": "x"}]}], 'dataset[1]: turn 1: unknown key "usr"'),
        ([{"id": "a", "turns": [TURN]}] * 2, 'dataset[1]: id "a" is used twice\n  found: first used at dataset[0]'),
        ([{"turns": [TURN], "meta": {"x": float("nan")}}], "dataset[0]: not a JSON value: NaN or infinite"),
        ([{"turns": [TURN], "meta": {"x": {1}}}], "dataset[0]: not a JSON value: a value of the type set"),
        ([{"turns": [{"user": "\ud83d"}]}], "dataset[0]: half of a surrogate pair"),
        ([LOOP], "dataset[0]: not a JSON value: Circular reference"),
        ([], "dataset (in memory): the dataset is empty"),
        (FRAME_OF_TURNS.drop(columns="user"), 'dataset (in memory): no column "user"'),
        (FRAME_OF_TURNS.assign(turn=[1, 7, 1]), 'dataset.iloc[0]: turn 2: "turn" is not 2'),
        (FRAME_OF_DIALOGUES.assign(turns=[[TURN], []]), "dataset.iloc[1]: "),
    ],
)
def test_problems_of_values_name_their_position(value: Any, start: str) -> None:
    problems = [item for item in dialogues_of(value) if isinstance(item, str)]
    assert problems[0].startswith(start), problems


def test_a_dataset_may_be_an_iterator_of_files_or_dialogues() -> None:
    assert len(cb.run(Path().glob("d*.jsonl"), out="a").conversations) == 3
    assert (
        len(cb.run(({"turns": [TURN]} for _ in range(2)), out="b", limit=cast("int", np.int64(9))).conversations) == 2
    )


@each("value", [5, [5], b"x", ["d.jsonl", {"turns": [TURN]}], pd.DataFrame([[1, 2]], columns=["user", "user"])])
def test_other_values_are_no_dataset(value: Any) -> None:
    with pytest.raises(cb.SetupError, match="dataset="):
        cb.run(value)


def test_only_failed_replays_the_dialogues_that_failed_a_check_or_a_turn() -> None:
    wanted = {"a": "Turn 1", "b": "no such text", "c": "Turn 1"}
    dialogues = [
        {"id": name, "turns": [{"user": "x", "checks": [{"contains": text}]}]} for name, text in wanted.items()
    ]
    first = cb.run(dialogues, models="sim-good@here")
    again = cb.run(dialogues, models="sim-good@here", only_failed=first)
    assert list(again.turns["dialogue"]) == ["b"]
    assert again.manifest.dataset.selection == {"only_failed": str(first.path)}
    never_asked = cb.run(dialogues, models="no-such-model@here", out="open")
    for run in (never_asked, cb.run(dialogues[:1], models="sim-good@here")):
        with pytest.raises(cb.SetupError, match=r"only_failed=: no dialogue of .* failed a check or a turn"):
            cb.run(dialogues, only_failed=run)


# --- printing --------------------------------------------------------------------------------------------------------


def test_runs_and_comparisons_print_small() -> None:
    run = cb.run("d.jsonl", models=["sim-good@here", "sim-drift@here"], out="<b>")
    assert repr(run) == "<convbatch.Run <b>: 3 dialogues x 2 targets, finished>"
    comparison = cb.compare((run, "sim-good@here"), (run, "sim-drift@here"), metric="output_tokens")
    assert repr(comparison).startswith("<convbatch.Comparison <b>:sim-good@here against <b>:sim-drift@here: ")
    assert len(repr(comparison)) < 400
    for wrong in ({"margin": "2%"}, {"alpha": "x"}, {"margin": [1]}):
        with pytest.raises(SetupError, match=rf"{next(iter(wrong))}= must be a number"):
            cb.compare(run, run, **wrong)  # pyright: ignore[reportArgumentType]
    for no_run in (None, 5, (run,)):
        with pytest.raises(SetupError, match="one side of the comparison is no run"):
            cb.compare(run, no_run)  # pyright: ignore[reportArgumentType]
    assert "FILE.json" not in str(cb.run.__doc__)
    pages = [run._repr_html_(), comparison._repr_html_()]  # pyright: ignore[reportPrivateUsage]  # IPython's protocol
    assert "<td" in pages[0]
    assert "sim-drift@here" in pages[0]
    assert all("output" in page and "<b>" not in page for page in pages)


def test_an_invalid_dataset_raises_with_every_problem() -> None:
    Path("d.jsonl").write_text("{}\n[]\n")
    with pytest.raises(cb.InputError) as caught:
        cb.run("d.jsonl")
    assert [problem.place.line for problem in caught.value.problems if problem.place is not None] == [1, 2]


def test_load_without_runs_raises() -> None:
    with pytest.raises(cb.SetupError, match="there is no run under results/ yet"):
        cb.load("latest")


# --- loops, threads, interruption ------------------------------------------------------------------------------------


async def test_run_in_a_running_loop_names_replay() -> None:
    with pytest.raises(RuntimeError, match=r"await convbatch\.replay"):
        cb.run("d.jsonl")


async def test_replays_run_concurrently_in_a_running_loop(sim: Sim) -> None:
    requests_before = sim.provider.ledger.requests
    runs = await asyncio.gather(cb.replay("d.jsonl", out="a"), cb.replay("d.jsonl", out="b", history="last"))
    assert [len(run.turns) for run in runs] == [6, 3]
    assert sim.provider.ledger.requests == requests_before + 9


async def test_a_cancelled_replay_records_possibly_paid_attempts(
    folder: Path, simulator: Callable[[Provider], Server]
) -> None:
    provider = Provider(latency_s=60)
    (folder / "convbatch.toml").write_text(config(simulator(provider).url))
    task = asyncio.create_task(cb.replay("d.jsonl", out="out"))
    async with asyncio.timeout(20):
        while provider.in_flight < 3:  # noqa: ASYNC110  # the simulator lives in another thread
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    run = cb.load("out")
    assert run.folder.state(run.manifest) == "interrupted"
    assert statuses(run.turns) == {"pending": 6}
    assert list(run.turns["possibly_paid"]) == [1, 0] * 3
    assert set(run.attempts["class"]) == {"abandoned"}


def test_run_works_outside_the_main_thread() -> None:
    found: list[cb.Run] = []
    thread = threading.Thread(target=lambda: found.append(cb.run("d.jsonl", out="out")))
    thread.start()
    thread.join()
    assert statuses(found[0].turns) == {"ok": 6}


def test_ctrl_c_finishes_requests_in_flight_and_raises(folder: Path, simulator: Callable[[Provider], Server]) -> None:
    provider = Provider(latency_s=0.5)
    (folder / "convbatch.toml").write_text(config(simulator(provider).url))
    code = "import convbatch\ntry: convbatch.run('d.jsonl', out='out')\nexcept KeyboardInterrupt: print('raised')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        while provider.in_flight < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert out == b"raised\n", err
    assert statuses(cb.load("out").turns) == {"ok": 3, "pending": 3}


def test_signal_handlers_of_the_program_are_restored() -> None:
    def own(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        cb.run("d.jsonl", out="out")
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_all_exported_names_exist() -> None:
    for name in cb.__all__:
        assert getattr(cb, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = cb.nothing_like_it  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  # that is the test


# Names of earlier versions


def test_a_renamed_public_name_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"convbatch\.CheckInput"):
        old: object = getattr(cb, "Said")  # noqa: B009  # the name is not known to type checkers any more
    assert old is cb.CheckInput
    assert "Said" not in dir(cb)


def test_the_old_attribute_of_a_run_works_and_warns(sim: Sim, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d.jsonl", 1, 1)
    run = cb.run(dataset, models=["sim-good@simulator"], out=tmp_path / "out")
    with pytest.warns(DeprecationWarning, match=r"Run\.suspended"):
        assert run.parked == run.suspended == {}
