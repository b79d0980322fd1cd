"""Values that are converted without Typer are what Typer makes of them, and a run needs no pydantic for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure import environment
from convbatch.cli.main import app
from tests.conftest import examples

GROUP: Any = typer.main.get_command(app)
PARAMS = [(name, param) for name, command in GROUP.commands.items() for param in command.params]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        ["", "-", ".", "/", "~", "0", "007", "3", "1e3", "2.5", "-1", " 4", "٣", "a\ud800", "a,b", "9" * 20]
    ),
    st.text(max_size=4).filter(lambda text: "\0" not in text),
)


def outcome(call: Any, ctx: Any, value: Any) -> Any:
    try:
        return repr(call(ctx, value))
    except typer.BadParameter as error:
        return type(error), error.format_message()
    except Exception as error:  # noqa: BLE001  # both must fail in the same way, whichever it is
        return type(error)


@settings(max_examples=examples(2000))
@given(st.sampled_from(PARAMS), st.data())
def test_a_value_is_converted_to_what_typer_converts_it_to(place: tuple[str, Any], data: st.DataObject) -> None:
    name, param = place
    is_many = param.multiple or param.nargs != 1
    value = data.draw(st.none() | st.lists(VALUES.filter(bool), max_size=2).map(tuple) if is_many else VALUES)
    command = GROUP.commands[name]
    with typer.Context(command, info_name=name) as ctx:
        command.get_params(ctx)
        by_typer = type(param).process_value.__get__(param)
        assert outcome(param.process_value, ctx, value) == outcome(by_typer, ctx, value)


def test_a_run_of_usual_dialogues_does_not_import_pydantic(tmp_path: Path) -> None:
    dataset = Path(__file__).parents[2] / "datasets" / "quickstart.jsonl"
    code = (
        "import sys\n"
        "from convbatch.cli.main import app\n"
        f"app(['run', {str(dataset)!r}, '-n', '2', '--temperature', '0', '-o', 'run'], standalone_mode=False)\n"
        "print('LOADED', 'pydantic' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED False"
