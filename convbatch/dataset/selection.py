"""Operations on dataset files: scan, load, select the dialogues of a run, convert to the canonical format.

The format of a file and the rules for a dialogue are in `reader.py` and below; the copy that a run keeps of its
selected dialogues is `snapshot.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import gzip
import itertools
import os
import random
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from convbatch.dataset.formats.builder import DatasetFormat
from convbatch.dataset.formats.registry import FORMATS
from convbatch.dataset.jsonl import display_json, encode_json_line
from convbatch.dataset.media_files import media_issues
from convbatch.dataset.reader import Problems, ProgressCallback, Reader
from convbatch.dataset.reference_answers import ReferenceAnswers
from convbatch.dataset.strike_out import StrikeOut
from convbatch.dialogue import Dialogue
from convbatch.errors import Problem, SetupError, did_you_mean, repeat_hint

_IDS_COMPARED = 20_000
_TAGS_REMEMBERED = 1_000


class DatasetScan:
    """One validating pass over dataset files: an iterator of dialogues and problems.

    Duplicate ids are reported last, when all ids are known. The counts are final when the iterator is exhausted.
    """

    def __init__(self, paths: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> None:
        self.dialogues = 0
        """Valid dialogues."""
        self.turns = 0
        """Their asked turns."""
        self.problems = 0
        self._reader = Reader(paths, on_progress=on_progress)
        self._items = iter(self._reader)

    @property
    def blank_lines(self) -> int:
        """Blank lines, which are skipped."""
        return self._reader.blank_lines

    @property
    def notes(self) -> list[str]:
        """Notes on keys that are not sent and on unfilled placeholders, of the files read so far."""
        return self._reader.notes

    def __iter__(self) -> Iterator[Dialogue | Problem]:
        return self

    def __next__(self) -> Dialogue | Problem:
        item = next(self._items)
        if isinstance(item, Problem):
            self.problems += 1
            return item
        self.dialogues += 1
        self.turns += len(item.dialogue.asked("live"))
        return item.dialogue


def scan(paths: Sequence[Path], *, on_progress: ProgressCallback | None = None) -> DatasetScan:
    """Validate dataset files, streaming.

    Args:
        paths: Files in any format of `formats/`, plain or gzip.
        on_progress: Called regularly with the bytes read, the total bytes and the dialogues so far.

    Returns:
        An iterator of `Dialogue` and `Problem` in file order, with running counts.
    """
    return DatasetScan(paths, on_progress=on_progress)


def load_dialogues(paths: Sequence[Path]) -> list[Dialogue]:
    """Load all dialogues of small files, in order.

    Raises:
        InputError: Any file has a problem; contains all problems.
    """
    dialogues: list[Dialogue] = []
    problems = Problems()
    for item in scan(paths):
        if isinstance(item, Problem):
            problems.add(item)
        else:
            dialogues.append(item)
    problems.raise_any()
    return dialogues


# Selecting


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dialogues a run includes: those with any of the ids (exact or glob) and any of the tags.

    Of these only the failed ones of a run, if one is given; and of these the first `limit`, or `sample` at random.
    """

    ids: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limit: int | None = None
    failed: frozenset[str] | None = None
    """Ids of the dialogues that failed in the run `failed_in`."""
    failed_in: str | None = None
    sample: int | None = None
    seed: int = 0
    """Selects the sample."""
    shuffle: int | None = None
    """Seed of a random order; None = that of the files."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise SetupError(f"--limit {self.limit} selects no dialogue", hint="at least 1, or omit it for all")
        if self.limit is not None and self.sample is not None:
            hint = "--limit takes the first dialogues, --sample takes them at random: choose one"
            raise SetupError("--limit and --sample are both given", hint=hint)

    def to_plain(self) -> dict[str, Any]:
        """Return the JSON form for `run.json`, without unset fields."""
        plain: dict[str, Any] = {"ids": list(self.ids), "tags": list(self.tags), "limit": self.limit}
        plain |= {"only_failed": self.failed_in, "sample": self.sample}
        given = {key: value for key, value in plain.items() if value}
        given |= {} if self.sample is None else {"sample_seed": self.seed}
        return given if self.shuffle is None else {**given, "shuffle": self.shuffle}


EVERYTHING = Selection()


class SelectionFilter:
    """Applies a selection to a stream of dialogues and records which of its ids and tags have matched.

    Args:
        selection: What to take.
        drawn: Positions of its sample among the dialogues that match, from 0; None = all of them.
    """

    def __init__(self, selection: Selection, drawn: frozenset[int] | None = None) -> None:
        self._selection = selection
        self._drawn = drawn
        self._absent = set(selection.failed or ())
        self._patterns = {name: re.compile(fnmatch.translate(name)) for name in selection.ids}
        self._missing = set(selection.ids)
        self._tags: set[str] = set()
        self._taken = 0
        self.matched = 0
        """Dialogues that match, before `limit` and `sample`."""
        self.seen = 0

    def takes(self, dialogue: Dialogue) -> bool:
        """Decide whether the selection includes this dialogue; call once for each dialogue, in order."""
        self.seen += 1
        self._absent.discard(dialogue.id)
        selection = self._selection
        if selection.ids and not self._matches(dialogue.id):
            return False
        if selection.tags:
            if len(self._tags) < _TAGS_REMEMBERED:
                self._tags.update(dialogue.tags)
            if not set(selection.tags) & set(dialogue.tags):
                return False
        if selection.failed is not None and dialogue.id not in selection.failed:
            return False
        self.matched += 1
        if selection.limit is not None and self._taken >= selection.limit:
            return False
        if self._drawn is not None and self.matched - 1 not in self._drawn:
            return False
        self._taken += 1
        return True

    def notes(self) -> Iterator[str]:
        """Yield what the selection asks for and the dataset does not have; call after the last dialogue."""
        if self._absent:
            of = f"{len(self._absent)} of {len(self._selection.failed or ())}"
            yield f"note: {of} dialogues that failed in {self._selection.failed_in} are not in this dataset"
        if self._selection.sample is not None and self.matched < self._selection.sample:
            yield f"note: {self.matched} dialogues, fewer than --sample {self._selection.sample}: all of them are asked"

    def _matches(self, name: str) -> bool:
        hits = [wanted for wanted, glob in self._patterns.items() if wanted == name or glob.match(name)]
        self._missing.difference_update(hits)
        return bool(hits)

    def problems(self, reader: Reader) -> Iterator[Problem]:
        """Yield the ids that no dialogue has, and a problem when nothing is selected; call after the last dialogue."""
        for wanted in self._selection.ids:
            if wanted in self._missing:
                yield Problem(what=f"no dialogue has the id {display_json(wanted)}", hint=_nearest_ids(wanted, reader))
        if self._taken or self._missing:
            return
        for tag in self._selection.tags:
            if tag not in self._tags:
                near = did_you_mean(tag, self._tags) if self._tags else "no dialogue has tags"
                hint = repeat_hint("--tag", tag) or near
                yield Problem(what=f"no dialogue has the tag {display_json(tag)}", hint=hint)
        yield Problem(
            what="no dialogue is left to run",
            found=f"{self.seen} dialogues read, selected by {display_json(self._selection.to_plain())}",
            hint="widen --id or --tag"
            if self._selection.failed is None
            else f"use the dataset of {self._selection.failed_in}; widen --id or --tag",
        )


def draw_sample(selection: Selection, dialogues: Iterable[Dialogue]) -> frozenset[int] | None:
    """Return the positions of the sample among the matching dialogues; None without a sample.

    The sample is that of `convbatch sample` with the same size and seed from a file of the matching dialogues.
    """
    if selection.sample is None:
        return None
    matching = SelectionFilter(selection)
    total = sum(matching.takes(dialogue) for dialogue in dialogues)
    dice = random.Random(selection.seed)  # a sample, not a secret
    return frozenset(dice.sample(range(total), min(selection.sample, total)))


def _nearest_ids(wanted: str, reader: Reader) -> str:
    if (several := repeat_hint("--id", wanted)) is not None:
        return several
    names = list(itertools.islice(reader.ids(), _IDS_COMPARED))
    close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(name) for name in close) + "?"
    return "ids are like " + ", ".join(repr(name) for name in names[:5])


# Converting


def convert(
    src: Path | Sequence[Path],
    dst: Path,
    *,
    from_format: str | None = None,
    reference: bool = False,
    reference_answers: Path | None = None,
    redact: bool = False,
    on_note: Callable[[str], None] | None = None,
) -> int:
    """Write a dataset in the canonical format. Logs of other tools are `logs/convert.py`.

    Args:
        src: A file in any known format, or a `.json` array of dialogues (read whole, up to 512 MiB); or several files.
        dst: `NAME.jsonl` or `NAME.jsonl.gz`; must not exist. Written to a temporary file first: complete or absent.
        from_format: The format that every line must have; None: detected.
        reference: Use MT-Bench `reference` answers as scripted replies.
        reference_answers: A file of MT-Bench answers by `question_id`; they become scripted replies.
        redact: Strike out secrets and personal data.
        on_note: Receives the notes of `DatasetScan.notes`, also before an error.

    Returns:
        Dialogues written.

    Raises:
        InputError: `src` has problems; nothing is written.
        SetupError: `dst` exists or cannot be written, or the format is unknown.
    """
    only = _known_format(from_format)
    answers = None if reference_answers is None else ReferenceAnswers(reference_answers)
    problems = Problems()
    reader = Reader([src] if isinstance(src, Path) else src, only=only, reference=reference, documents=True)
    written = 0
    with new_dataset(dst) as out:
        for item in reader:
            if isinstance(item, Problem):
                problems.add(StrikeOut().problem(item) if redact else item)
                continue
            moved = media_issues(item.dialogue, dst.parent)
            problems.extend(item.problem(dataclasses.replace(issue, hint=MOVED)) for issue in moved)
            dialogue = item.dialogue if answers is None else answers.join(item.dialogue)
            plain = dialogue.to_plain()
            out.write(encode_json_line(StrikeOut().value(plain) if redact else plain))
            written += 1
        if answers is not None and not problems:
            problems.extend(answers.problems())
        if on_note is not None:
            for note in reader.notes:
                on_note(note)
        problems.raise_any()
    return written


MOVED = "media paths are relative to the dataset: write the new file into the same folder"


LOGS = ("otel", "langfuse", "phoenix", "litellm", "newapi", "promptfoo", "inspect-log", "evalscope")
"""Names of logs for `convert --from`, beside those of `FORMATS`."""


def _known_format(name: str | None) -> DatasetFormat | None:
    if name is None or name in FORMATS:
        return None if name is None else FORMATS[name]
    raise SetupError(f"unknown dataset format {name!r}", hint=did_you_mean(name, [*FORMATS, *LOGS]))


def _refuse_target(dst: Path) -> None:
    if not dst.name.endswith((".jsonl", ".jsonl.gz")):
        raise SetupError(f"{dst} is not a name for JSON lines", hint=f"e.g. {dst.with_suffix('.jsonl')}")
    try:
        is_there = dst.exists() or dst.is_symlink()
    except OSError as error:
        raise output_error(dst, error) from None
    if is_there:
        raise SetupError(f"{dst} exists already", hint="remove it, or use another name: nothing is overwritten")
    if not dst.parent.is_dir():
        raise SetupError(f"{dst.parent} is not a folder", hint=f"mkdir -p {dst.parent}")


@contextlib.contextmanager
def new_dataset(dst: Path) -> Generator[BinaryIO | gzip.GzipFile]:
    """Open a new dataset file for writing; it appears under its name only when the block ends without an error.

    Raises:
        SetupError: `dst` exists, has another suffix, or cannot be written.
    """
    _refuse_target(dst)
    aside = dst.with_name(f".{dst.name}.{os.getpid()}.part")
    try:
        with _output(aside, compressed=dst.name.endswith(".gz")) as out:
            yield out
        aside.replace(dst)
    except OSError as error:
        raise output_error(dst, error) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _output(path: Path, *, compressed: bool) -> Generator[BinaryIO | gzip.GzipFile]:
    path.unlink(missing_ok=True)  # left by a process that ended; also removes a link instead of following it
    with path.open("xb") as raw:
        if not compressed:
            yield raw
            return
        # Without a file name in the header: it would be that of the temporary file.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
            yield packed


def output_error(path: Path, error: OSError) -> SetupError:
    """Build the error for a file that cannot be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return SetupError(f"cannot write {path}: {reason}", hint="a folder you may write to, with room left")
