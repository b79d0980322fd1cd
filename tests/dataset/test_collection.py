"""`convbatch.Dataset`: the same dialogues, keys and messages whether they are built in code or read from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import convbatch as cb
from convbatch.dataset.sample import sample
from tests.conftest import write_dataset
from tests.support.tables import each


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
turns = st.builds(
    lambda user, assistant, check: {"user": user} | ({"assistant": assistant} if assistant else {}) | check,
    texts,
    st.none() | texts,
    st.sampled_from([{}, {"checks": [{"contains": "x"}]}, {"settings": {"temperature": 0.5}}]),
)
dialogues = st.builds(
    lambda turns, system, tags: {"turns": turns} | ({"system": system} if system else {}) | ({"tags": tags}),
    st.lists(turns, min_size=1, max_size=3),
    st.none() | texts,
    st.lists(st.sampled_from(["a", "b"]), unique=True, min_size=1),
)


def keys(run: cb.Run) -> list[str]:
    lines = (json.loads(line) for path in run.folder.segments() for line in path.read_bytes().splitlines())
    return sorted(record["key"] for record in lines if record["kind"] == "turn")


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(dialogues, min_size=1, max_size=4))
def test_a_run_of_a_dataset_is_that_of_the_file_it_writes(plain: list[dict[str, Any]]) -> None:
    built = cb.Dataset(cb.Dialogue.from_plain({"id": f"d{n}", **one}) for n, one in enumerate(plain))
    for old in Path().glob("d.jsonl"):
        old.unlink()
    of_file = cb.Dataset.load(built.save("d.jsonl"))
    assert of_file == built == cb.Dataset(built.to_plain()) == cb.Dataset(built)
    runs = [cb.run(source, models="sim-good@simulator") for source in (built, of_file, "d.jsonl")]
    assert len({run.folder.dataset.read_bytes() for run in runs}) == 1
    assert keys(runs[0]) == keys(runs[1]) == keys(runs[2]) != []


def test_texts_and_lists_of_texts_are_user_messages() -> None:
    dataset = cb.Dataset(["one", ["two", "three"], {"turns": [{"user": "four"}]}])
    assert [[turn.user_text for turn in one.turns] for one in dataset] == [["one"], ["two", "three"], ["four"]]
    assert [one.id for one in dataset] == ["dataset:0", "dataset:1", "dataset:2"]
    messages = cb.Dataset([[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]])
    assert messages[0].to_plain()["turns"] == [{"user": "x", "assistant": "y"}]
    assert dataset[-1] == list(dataset)[2]
    assert [one.id for one in dataset[:2]] == ["dataset:0", "dataset:1"]
    assert isinstance(dataset[:2], cb.Dataset)


TURNS = pd.DataFrame({"id": ["a", "a", "b"], "user": ["x", "y", "z"], "assistant": ["r", None, None]})


def test_frames_of_pandas_and_arrow_give_the_same_dialogues() -> None:
    table = pa.Table.from_pandas(TURNS)
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    expected = [
        {"id": "a", "turns": [{"user": "x", "assistant": "r"}, {"user": "y"}]},
        {"id": "b", "turns": [{"user": "z"}]},
    ]
    for frame in (TURNS, table, reader):
        assert cb.Dataset(frame).to_plain() == expected
    assert len(cb.run(table, models="sim-good@simulator").turns) == 3
    with_system = {"id": "c", "system": "s", "turns": [{"user": "v"}]}
    of_dialogues = pa.Table.from_pylist([with_system, *expected])
    assert cb.Dataset(of_dialogues).to_plain() == [with_system, *expected]


@each(
    ("value", "message"),
    [
        (["x", {"turns": []}], "dataset[1]: "),
        (["d.jsonl"], "read files with Dataset.load(PATH)"),
        ("d.jsonl", "read files with Dataset.load(PATH)"),
        (5, "dataset= does not take a value of the type int"),
        ([5], "dataset= does not take a value of the type int"),
        ([{"id": "a", "turns": [{"user": "x"}]}] * 2, 'dataset[1]: id "a" is used twice'),
        (pa.table({"usr": ["x"]}), 'no column "user"'),
        ([], "the dataset is empty"),
    ],
)
def test_a_value_that_is_no_dataset_is_refused_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(cb.ConvbatchError) as raised:
        cb.Dataset(value)
    assert message in str(raised.value)


def test_problems_of_files_and_of_runs_name_file_and_line(folder: Path) -> None:
    (folder / "bad.jsonl").write_text('{"turns": [{"user": "x"}]}\n{"turns": [{"usr": "x"}]}\n')
    with pytest.raises(cb.InputError, match=r"bad\.jsonl:2"):
        cb.Dataset.load("bad.jsonl")
    write_dataset(folder / "d.jsonl", 3, 2, scripted=False)
    with pytest.raises(cb.InputError, match=r"d\.jsonl:3"):  # not dataset[0]
        cb.run(cb.Dataset.load("d.jsonl").filter(ids="d00002"), models="sim-good@simulator", history="script")
    with pytest.raises(cb.InputError, match=r"dataset\[0\]"):
        cb.run(cb.Dataset(["one", ["two", "three"]])[1:], models="sim-good@simulator", history="script")


def test_a_dataset_cannot_be_changed() -> None:
    plain = [{"id": "a", "turns": [{"user": "x"}]}]
    dataset = cb.Dataset(plain)
    plain[0]["id"] = "changed later"
    assert dataset[0].id == "a"
    with pytest.raises(AttributeError, match="cannot be changed"):
        dataset._items = ()  # pyright: ignore[reportPrivateUsage]  # that is the test


def test_filters_select_as_the_options_of_run_do(folder: Path) -> None:
    write_dataset(folder / "d.jsonl", 12, 1)
    dataset = cb.Dataset.load("d.jsonl")
    assert [one.id for one in dataset.filter(ids=["d00003", "d0001*"])] == ["d00003", "d00010", "d00011"]
    assert len(dataset.filter(lambda one: one.id > "d00009")) == 2
    with pytest.raises(cb.SetupError, match="no dialogue has the id"):
        dataset.filter(ids="d9")
    with pytest.raises(cb.SetupError, match="no dialogue has the tag"):
        dataset.filter(tags="x")
    with pytest.raises(cb.SetupError, match="sample of 0"):
        dataset.sample(0)
    with pytest.raises(cb.SetupError, match=r"sample of 1\.5"):
        dataset.sample(cast("Any", 1.5))
    assert len(dataset.sample(cast("int", np.int64(1)))) == 1


@pytest.mark.parametrize("by_length", [False, True])
def test_a_sample_is_that_of_the_command(folder: Path, by_length: bool) -> None:
    write_dataset(folder / "d.jsonl", 30, 2)
    sample(Path("d.jsonl"), Path("s.jsonl"), size=7, seed=3, by_length=by_length)
    assert cb.Dataset.load("d.jsonl").sample(7, seed=3, by_length=by_length) == cb.Dataset.load("s.jsonl")


def test_media_are_found_beside_the_file_they_came_from(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes(PNG)
    line = {"id": "a", "turns": [{"user": [{"text": "see"}, {"image": "a.png"}]}]}
    (folder / "sub" / "d.jsonl").write_text(json.dumps(line) + "\n")
    dataset = cb.Dataset.load("sub/d.jsonl")
    of_dataset, of_file = (cb.run(one, models="sim-good@simulator") for one in (dataset, "sub/d.jsonl"))
    assert of_dataset.folder.dataset.read_bytes() == of_file.folder.dataset.read_bytes()
    with pytest.raises(cb.InputError, match="write the new file into the same folder"):
        dataset.save("elsewhere.jsonl")
    assert not (folder / "elsewhere.jsonl").exists()


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
