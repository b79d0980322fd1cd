"""`Dataset`: dialogues as an immutable sequence, built in code, from files or from a frame.

It is read by the same rules as a file (`reader.py`), and a run of it keeps the same copy as a run of the file that
`Dataset.save` writes. Nothing here decides what a dialogue is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast, final, overload

from convbatch.dataset.in_memory import (
    NAME,
    DatasetSource,
    InMemoryDataset,
    in_memory_dataset,
    of_rows,
    refuse_twice,
)
from convbatch.dataset.jsonl import display_json, encode_json_line
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.reader import Located, Problems, Reader, count_of
from convbatch.dataset.sample import draw
from convbatch.dataset.selection import MOVED, Selection, SelectionFilter, new_dataset
from convbatch.dialogue import Dialogue
from convbatch.errors import Place, Problem, SetupError, did_you_mean

_FILES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".xlsx")


@final
class Dataset(Sequence[Dialogue]):
    """Dialogues in order, checked and immutable.

    >>> dataset = Dataset(["What is 2 + 2?", ["My name is Ada.", "What is my name?"]])
    >>> len(dataset), [len(dialogue.turns) for dialogue in dataset]
    (2, [1, 2])
    >>> dataset[1].turns[1].user_text
    'What is my name?'
    >>> dataset
    <convbatch.Dataset: 2 dialogues, 3 turns>
    """

    __slots__ = ("_items", "_name", "_notes")
    _items: tuple[Located, ...]
    _name: str
    _notes: tuple[str, ...]

    def __init__(self, dialogues: Any) -> None:
        """Check dialogues and keep a copy of them.

        Args:
            dialogues: Each a `Dialogue`, a dictionary in any format that a file may have, a list of messages, one user
                message as a text, or a list of texts, which are the user messages of one dialogue. Or a frame of
                pandas, polars or Arrow: one row a turn, with the columns of a CSV file, or one row a dialogue. A
                dialogue without an id is named `dataset:0`, `dataset:1` …; paths of media start at the working
                directory.

        Raises:
            InputError: Invalid dialogues, each with its index.
            SetupError: The value is none of these.
        """
        if isinstance(dialogues, Dataset):
            self._set(dialogues._items, dialogues._name, dialogues._notes)
            return
        is_pandas = hasattr(dialogues, "iloc")
        if hasattr(dialogues, "__arrow_c_stream__") and not is_pandas:
            source = _of_arrow(dialogues)
        else:
            source = in_memory_dataset(dialogues if is_pandas else _as_dialogues(dialogues))
        if source is None:
            raise _names_files(dialogues)
        self._set(*_read([source]))

    @classmethod
    def load(cls, *paths: str | Path) -> Dataset:
        """Read files of dialogues: everything that `convbatch run` reads.

        Args:
            paths: One or several; ids are unique over all of them.

        Raises:
            InputError: A file cannot be read or has problems, each with `file:line`.
        """
        if not paths:
            raise SetupError("Dataset.load needs a file", hint='Dataset.load("dialogues.jsonl")')
        files = [Path(path) for path in paths]
        items, _, notes = _read(files)
        return cls._of(items, files[0].name.split(".")[0] or NAME, notes)

    @classmethod
    def _of(cls, items: Iterable[Located], name: str, notes: tuple[str, ...]) -> Dataset:
        made = cls.__new__(cls)
        made._set(tuple(items), name, notes)
        return made

    def _set(self, items: tuple[Located, ...], name: str, notes: tuple[str, ...]) -> None:
        for field, value in (("_items", items), ("_name", name), ("_notes", notes)):
            object.__setattr__(self, field, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Dataset cannot be changed; filter, sample and Dataset(...) make new ones")

    @property
    def notes(self) -> tuple[str, ...]:
        """What no model is sent, such as unknown keys of another format, and placeholders that are not filled."""
        return self._notes

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Dialogue]:
        return (item.dialogue for item in self._items)

    @overload
    def __getitem__(self, index: int) -> Dialogue: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Dialogue | Dataset:
        if isinstance(index, slice):
            return self._of(self._items[index], self._name, self._notes)
        return self._items[index].dialogue

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dataset):
            return NotImplemented
        return self.to_plain() == other.to_plain()

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # dialogues hold dictionaries

    def __repr__(self) -> str:
        turns = sum(len(item.dialogue.turns) for item in self._items)
        return f"<convbatch.Dataset: {count_of(len(self), 'dialogue')}, {count_of(turns, 'turn')}>"

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the dialogues as dictionaries in the canonical format, one as a line of the file has it."""
        return [item.dialogue.to_plain() for item in self._items]

    def filter(
        self,
        where: Callable[[Dialogue], bool] | None = None,
        *,
        ids: str | Iterable[str] = (),
        tags: str | Iterable[str] = (),
    ) -> Dataset:
        """Return the dialogues that meet every condition, in order.

        >>> dataset = Dataset([{"id": "a", "tags": ["math"], "turns": [{"user": "2 + 2?"}]}, "Hello"])
        >>> [dialogue.id for dialogue in dataset.filter(tags="math")]
        ['a']
        >>> len(dataset.filter(lambda dialogue: len(dialogue.turns) > 1))
        0

        Args:
            where: Takes a dialogue.
            ids: One id or several, globs allowed; a dialogue has one of them.
            tags: One tag or several; a dialogue has one of them.

        Raises:
            SetupError: No dialogue has one of the ids, or any of the tags.
        """
        wanted, tagged = (((one,) if isinstance(one, str) else tuple(one)) for one in (ids, tags))
        for name in wanted:
            if not any(map(SelectionFilter(Selection(ids=(name,))).takes, self)):
                hint = did_you_mean(name, [item.dialogue.id for item in self._items])
                raise SetupError(f"no dialogue has the id {display_json(name)}", hint=hint)
        known = {tag for dialogue in self for tag in dialogue.tags}
        if tagged and known.isdisjoint(tagged):
            hint = did_you_mean(tagged[0], sorted(known)) if known else "no dialogue has tags"
            raise SetupError(f"no dialogue has the tag {display_json(tagged[0])}", hint=hint)
        selected = SelectionFilter(Selection(ids=wanted, tags=tagged))
        kept = (item for item in self._items if selected.takes(item.dialogue))
        return self._of((item for item in kept if where is None or where(item.dialogue)), self._name, self._notes)

    def sample(self, size: int, seed: int = 0, *, by_tag: bool = False, by_length: bool = False) -> Dataset:
        """Return a random sample in order: the one that `convbatch sample` draws from the file of these dialogues.

        >>> dataset = Dataset([f"What is {number} + 1?" for number in range(100)])
        >>> len(dataset.sample(10, seed=7)), dataset.sample(10, seed=7) == dataset.sample(10, seed=7)
        (10, True)

        Args:
            size: Dialogues, at least 1; all of them when there are fewer.
            seed: Selects the sample.
            by_tag: Give every set of tags its share.
            by_length: Give short and long dialogues their share.
        """
        if not hasattr(size, "__index__") or size < 1:  # from a notebook, where a number of numpy will do
            raise SetupError(f"a sample of {size} dialogues", hint="a whole number of at least 1")
        kept, _ = draw(self, size=size, seed=seed, by_tag=by_tag, by_length=by_length)
        return self._of((self._items[number] for number in sorted(kept)), self._name, self._notes)

    def save(self, path: str | Path) -> Path:
        """Write the dialogues in the canonical format; the file is complete or absent.

        Args:
            path: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist.

        Returns:
            The path.

        Raises:
            SetupError: The file exists or cannot be written.
            InputError: A dialogue names media that are not beside the new file.
        """
        target, problems = Path(path), Problems()
        with new_dataset(target) as out:
            for item in self._items:
                moved = media_issues(item.dialogue, target.parent)
                problems.extend(item.problem(replace(issue, hint=MOVED)) for issue in moved)
                out.write(encode_json_line(item.dialogue.to_plain()))
            problems.raise_any()
        return target

    def source(self) -> InMemoryDataset:
        """Return the dialogues as a run reads them, with their places and the folders of their media."""
        lines = tuple(encode_json_line(item.dialogue.to_plain()).rstrip(b"\n") for item in self._items)
        places = tuple(
            item.place if item.place.index is None else Place(path=NAME, index=number)
            for number, item in enumerate(self._items)
        )
        folders = tuple(item.folder for item in self._items)
        return InMemoryDataset(lines=lines, places=places, folders=folders, name=self._name)


def _read(sources: Sequence[DatasetSource]) -> tuple[tuple[Located, ...], str, tuple[str, ...]]:
    reader, problems = Reader(sources), Problems()
    items: list[Located] = []
    for item in reader:
        if isinstance(item, Problem):
            problems.add(item)
        else:
            items.append(item)
    problems.raise_any()
    return tuple(items), NAME, tuple(reader.notes)


def _of_arrow(frame: Any) -> InMemoryDataset:
    """Return the rows of a frame of polars, or another that gives its columns as an Arrow stream."""
    import pyarrow as pa  # not in `in_memory.py`: a run of files never imports it

    table = pa.table(frame)
    refuse_twice(table.column_names)
    rows = [{name: _without_nulls(cell) for name, cell in row.items()} for row in table.to_pylist()]
    return of_rows(rows, NAME)


def _without_nulls(value: Any) -> Any:
    """Return a cell without the fields that are null: every struct of a column has all fields of its type."""
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {name: _without_nulls(item) for name, item in fields.items() if item is not None}
    return [_without_nulls(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _as_dialogues(value: Any) -> Any:
    """Return the value with each text, or list of texts, as a dialogue."""
    if isinstance(value, str | bytes | Path | Mapping | Dialogue) or not isinstance(value, Iterable):
        return cast("Any", value)
    return [_as_dialogue(one) for one in cast("Iterable[Any]", value)]


def _as_dialogue(value: Any) -> Any:
    if isinstance(value, str):
        if value.strip().endswith(_FILES) and not value.strip().count("\n"):
            raise _names_files(value)
        return {"turns": [{"user": value}]}
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        if items and all(isinstance(item, str) for item in items):
            return {"turns": [{"user": item} for item in items]}
        return list(items)
    return value


def _names_files(value: Any) -> SetupError:
    return SetupError(
        "Dataset(...) takes dialogues, not names of files",
        found=repr(value)[:200],
        hint="read files with Dataset.load(PATH); a single user message is Dataset([TEXT])",
    )
