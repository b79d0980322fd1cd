from __future__ import annotations

import gzip
import json
import tempfile
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convbatch.dataset.sample import allocate, sample
from convbatch.dataset.selection import Selection, load_dialogues
from convbatch.dataset.snapshot import read_copy, write_copy
from convbatch.errors import InputError, SetupError
from tests.conftest import Command

TAGS = [["a"]] * 8 + [["b", "zh"], ["zh", "b"], []]


def write(folder: Path, *, count: int = 44) -> Path:
    path = folder / "d.jsonl"
    lines = ({"id": f"d{i}", "tags": TAGS[i % len(TAGS)], "turns": [{"user": "u"}]} for i in range(count))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ids(path: Path) -> list[str]:
    return [dialogue.id for dialogue in load_dialogues([path])]


def test_a_stratified_sample_has_the_shares_of_the_file_and_its_order(convbatch: Command, tmp_path: Path) -> None:
    source = write(tmp_path)
    done = convbatch("sample", "d.jsonl", "out.jsonl", "-n", "11", "--by", "tag")
    assert done.code == 0, done.err
    assert done.err.splitlines() == [
        "8 of 32: a",
        "2 of 8: b, zh",
        "1 of 4: no tags",
        "11 of 44 dialogues written to out.jsonl",
    ]
    drawn = ids(tmp_path / "out.jsonl")
    assert drawn == [name for name in ids(source) if name in set(drawn)]


def test_a_sample_by_length_has_long_dialogues_too(convbatch: Command, tmp_path: Path) -> None:
    lines = [{"id": f"d{i}", "tags": ["a"], "turns": [{"user": "u" * (900 if i > 35 else 9)}]} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = convbatch("sample", "d.jsonl", "out.jsonl", "-n", "10", "--by", "tag", "--by", "length")
    assert done.err.splitlines()[0] == "10 of 40: a"
    assert len([name for name in ids(tmp_path / "out.jsonl") if int(name[1:]) > 35]) == 1


def test_a_seed_selects_the_sample(tmp_path: Path) -> None:
    source = write(tmp_path)
    drawn = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.jsonl"
        assert sample(source, out, size=20, seed=seed).strata == []
        drawn.append(ids(out))
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(names) for names in drawn] == [20, 20, 20]


@settings(max_examples=15)
@given(size=st.integers(1, 50), seed=st.integers(0, 9))
def test_the_sample_of_a_run_is_that_of_the_command(size: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write(folder)
        sample(source, folder / "out.jsonl", size=size, seed=seed)
        report = write_copy([source], Selection(sample=size, seed=seed), folder / "copy.gz", "live")
        assert gzip.decompress((folder / "copy.gz").read_bytes()) == (folder / "out.jsonl").read_bytes()
        assert any(f"fewer than --sample {size}" in note for note in report.notes) == (size > 44)


def test_a_sample_is_drawn_of_what_is_selected(tmp_path: Path) -> None:
    selection = Selection(tags=("zh",), failed=frozenset(f"d{n}" for n in range(30)), failed_in="RUN", sample=3)
    report = write_copy([write(tmp_path, count=29)], selection, tmp_path / "copy.gz", "live")
    dialogues = [dialogue for _, dialogue in read_copy(tmp_path / "copy.gz")]
    assert [("zh" in dialogue.tags, dialogue.id in (selection.failed or ())) for dialogue in dialogues] == [
        (True, True)
    ] * 3
    assert report.notes == ("note: 1 of 30 dialogues that failed in RUN are not in this dataset",)
    assert selection.to_plain() == {"tags": ["zh"], "only_failed": "RUN", "sample": 3, "sample_seed": 0}


def test_limit_and_sample_exclude_each_other() -> None:
    with pytest.raises(SetupError, match="--limit and --sample are both given"):
        Selection(limit=1, sample=1)


def test_a_sample_larger_than_the_file_is_the_file_and_says_so(tmp_path: Path) -> None:
    source = write(tmp_path, count=5)
    drawn = sample(source, tmp_path / "out.jsonl", size=9, seed=1, by_tag=True)
    assert ids(tmp_path / "out.jsonl") == ids(source)
    assert any("fewer than the 9 requested" in note for note in drawn.notes())


def test_a_file_with_a_problem_gives_no_sample(tmp_path: Path) -> None:
    source = write(tmp_path)
    source.write_text(source.read_text() + "{}\n")
    with pytest.raises(InputError, match=r"d\.jsonl:45: no dialogue"):
        sample(source, tmp_path / "out.jsonl", size=3, seed=1)
    assert list(tmp_path.iterdir()) == [source]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 200))
def test_an_allocation_is_exact_and_proportional(totals: list[int], size: int) -> None:
    counts = allocate(totals, size)
    shares = [Fraction(min(size, sum(totals)) * total, sum(totals)) for total in totals]
    assert sum(counts) == min(size, sum(totals))
    assert all(0 <= count <= total for count, total in zip(counts, totals, strict=True))
    if size >= len(totals):
        assert min(counts) >= 1
    if size < len(totals) or min(shares) >= 1:
        assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))
    for count, total in zip(counts, totals, strict=True):  # a larger stratum never has fewer, but for a tie
        assert all(other >= count for other, more in zip(counts, totals, strict=True) if more > total)
