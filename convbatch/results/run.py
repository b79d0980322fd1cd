"""`Run` and `load`: the tables of a run folder.

Which columns there are is `columns.py`, how journal and dataset become rows `rows.py`. How a table is written as CSV or
JSON is `export.py`, how it looks in a terminal `cli/show.py`; what a journal line means is `journal/index.py`.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from convbatch.console.html import html_table
from convbatch.console.tables import NONE, number_text
from convbatch.dataset.reader import count_of
from convbatch.errors import ConvbatchError, SetupError, did_you_mean
from convbatch.journal.index import Archive
from convbatch.journal.manifest import ManifestTarget
from convbatch.journal.run_folder import RunFolder, find_run
from convbatch.pricing import PriceTable, display_amount
from convbatch.results.cache import (
    DAMAGED_PLACES,
    SUSPENDED,
    is_fresh,
    read_conversations,
    scratch_file,
    turns_file,
    verdicts_beside,
)
from convbatch.results.columns import (
    ATTEMPTS,
    CONVERSATIONS,
    TURNS,
    VERDICTS,
    WIDE_KEYS,
    Column,
    Row,
    row_builder,
)
from convbatch.results.conversations import ConversationId
from convbatch.results.parquet import Rows, batch_reader, read_batches, read_frame, read_rows, read_stamp
from convbatch.results.rows import ConversationTurns, attempts
from convbatch.results.summary import TargetSummary, summarise
from convbatch.results.turn_results import NAMES, TurnResult
from convbatch.served_model import Aliases

if TYPE_CHECKING:
    import pandas as pd

RESULTS = Path("results")
_FIGURES = ("target", "ok", "blocked", "empty", "failed", "open", "input tokens", "output tokens", "cost", "passed")
_SHORT = tuple(column.name for column in TURNS if not column.is_long)


class Run:
    """The tables and sums of a run folder; frames are built on first use and cached.

    >>> run
    <convbatch.Run ...: 1 dialogue x 1 target, finished>
    >>> run.turns[["turn", "reply"]].values.tolist()
    [[1, 'Paris.'], [2, 'About two million.']]

    Attributes:
        path: The run folder.
        manifest: The content of `run.json`, with other prices after `at_prices`.
        targets: Target names in the order of the command line.
    """

    def __init__(self, folder: RunFolder, *, keeps_folder: bool = False) -> None:
        """Args: folder: The run folder. keeps_folder: Write nothing into it: stale tables are made elsewhere."""
        self.folder = folder
        self.path = folder.path
        self.manifest = folder.read_manifest()
        self.targets = self.manifest.target_names
        self._is_repriced = False
        self._keeps_folder = keeps_folder
        self._file = ExitStack()
        weakref.finalize(self, self._file.close)

    def __repr__(self) -> str:
        dataset = self.manifest.dataset
        size = f"{count_of(dataset.dialogues, 'dialogue')} x {count_of(len(self.targets), 'target')}"
        return f"<convbatch.Run {self.path}: {size}, {self.folder.state(self.manifest)}>"

    def _repr_html_(self) -> str:
        """Return a row per target, for notebooks; the description alone when the tables cannot be read."""
        try:
            return html_table(repr(self), _FIGURES, map(_figures, self.summary()))
        except (ConvbatchError, OSError):
            return html_table(repr(self), (), ())

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of `run.json` as plain JSON."""
        return self.manifest.to_json()

    @property
    def name(self) -> str:
        """The run's own name, which stays when its folder is moved."""
        return self.manifest.run or self.folder.name

    @property
    def caption(self) -> str | None:
        """What `--name` and `--note` say of the run; None without either."""
        return ": ".join(filter(None, (self.manifest.name, self.manifest.note))) or None

    @cached_property
    def turns_path(self) -> Path:
        """A `turns.parquet` that matches the journal; a temporary one where the folder cannot be written."""
        # The folder's own table has the original prices.
        if self._is_repriced or (self._keeps_folder and not is_fresh(self.folder)):
            return self._file.enter_context(scratch_file(self.folder, self.manifest))
        return self._file.enter_context(turns_file(self.folder))

    @property
    def verdicts_path(self) -> Path:
        """The `verdicts.parquet` that belongs to `turns_path`."""
        return verdicts_beside(self.turns_path)

    @property
    def damaged_places(self) -> int:
        """Number of unreadable places in the journal, which were skipped."""
        return int(self._stamp.get(DAMAGED_PLACES, b"0"))

    @property
    def suspended(self) -> dict[str, str]:
        """Suspended targets and why, as the last session recorded them when it ended."""
        return orjson.loads(self._stamp.get(SUSPENDED, b"{}"))

    @property
    def parked(self) -> dict[str, str]:
        """Deprecated name of `suspended`."""
        warnings.warn("Run.parked is now Run.suspended", DeprecationWarning, stacklevel=2)
        return self.suspended

    @cached_property
    def _stamp(self) -> dict[bytes, bytes]:
        return read_stamp(self.turns_path)

    @cached_property
    def turns(self) -> pd.DataFrame:
        """One row per dialogue x target x repeat x asked turn, whatever its status; columns: `TURNS`."""
        return read_frame(self.turns_path)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per check, in the order of `turns`, those on a whole dialogue last; columns: `VERDICTS`."""
        return self.verdict_rows().frame()

    @cached_property
    def conversations(self) -> pd.DataFrame:
        """One row per dialogue x target x repeat; columns: `CONVERSATIONS`."""
        return self.conversation_rows().frame()

    @cached_property
    def attempts(self) -> pd.DataFrame:
        """One row per HTTP attempt, in the order of `turns`; columns: `ATTEMPTS`."""
        return self.attempt_rows().frame()

    def results(self) -> Iterator[TurnResult]:
        """Yield the rows of `turns` as typed values, with one batch in memory at a time.

        >>> for turn in run.results():
        ...     print(turn.dialogue, turn.turn, turn.status, turn.reply)
        capital 1 ok Paris.
        capital 2 ok About two million.
        """
        return map(TurnResult.from_row, read_rows(self.turns_path, NAMES))

    def arrow(self, table: str = "turns") -> Any:
        """Return a table as a `pyarrow.RecordBatchReader`, with one batch in memory at a time; nulls stay nulls.

        >>> run.arrow("attempts").read_all().column("http_status").to_pylist()
        [200, 200]

        Args:
            table: `turns`, `verdicts`, `conversations` or `attempts`; docs/tables.md has their columns.

        Raises:
            SetupError: Unknown table.
        """
        if table == "turns":
            return read_batches(self.turns_path, TURNS)
        if table == "verdicts":
            return read_batches(self.verdicts_path, VERDICTS)
        if table == "conversations":
            return batch_reader(self.conversation_rows())
        if table == "attempts":
            return batch_reader(self.attempt_rows())
        tables = ("turns", "verdicts", "conversations", "attempts")
        raise SetupError(f"a run has no table {table!r}", hint=did_you_mean(table, tables))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Give `turns` to whatever reads Arrow streams: `polars.DataFrame(run)`, `pyarrow.table(run)`, DuckDB.

        Source: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
        """
        return self.arrow().__arrow_c_stream__(requested_schema)

    def wide(self, value: str = "reply") -> pd.DataFrame:
        """Put the targets side by side: one row per (dialogue, repeat, turn), one column per target.

        Args:
            value: `reply`, `finish_reason`, `output_tokens`, `cost`, `passed` or `score`. Of the last two, checks on a
                whole dialogue have a row whose turn is null.

        Returns:
            A frame whose index is (dialogue, repeat, turn) in the dataset's order.

        Raises:
            SetupError: Unknown value.
        """
        return self.wide_rows(value).frame().set_index(list(WIDE_KEYS))

    def summary(self) -> list[TargetSummary]:
        """Sum up each target's turns, in the order of `targets`."""
        return summarise(self.turns_path, self.manifest.targets)

    def turn_rows(self) -> Rows:
        """Return the rows of `turns`, with one batch in memory at a time."""
        return Rows(columns=TURNS, rows=read_rows(self.turns_path, tuple(column.name for column in TURNS)))

    def verdict_rows(self) -> Rows:
        """Return the rows of `verdicts`, with one batch in memory at a time."""
        return Rows(columns=VERDICTS, rows=read_rows(self.verdicts_path, tuple(column.name for column in VERDICTS)))

    def conversation_rows(self) -> Rows:
        """Return the rows of `conversations`, with one batch in memory at a time."""
        return self._conversation_rows(CONVERSATIONS, _SHORT)

    def judged_conversation_rows(self, names: Sequence[str]) -> Rows:
        """Return these columns of `conversations`, none a sum over turns, with one batch in memory at a time."""
        known = {column.name: column for column in CONVERSATIONS}
        return self._conversation_rows([known[name] for name in names], (*ConversationId._fields, "tags", "status"))

    def _conversation_rows(self, columns: Sequence[Column], of_turns: Sequence[str]) -> Rows:
        history = self.manifest.history
        conversations = (
            ConversationTurns(dict(zip(of_turns, zip(*rows, strict=True), strict=True)), verdicts, history)
            for rows, verdicts in read_conversations(self.turns_path, of_turns)
        )
        return Rows(columns=columns, rows=map(row_builder(columns), conversations))

    def attempt_rows(self) -> Rows:
        """Return the rows of `attempts`, with one conversation in memory at a time."""

        def rows() -> Iterator[Row]:
            with Archive(self.folder) as archive:
                yield from map(row_builder(ATTEMPTS), attempts(self.folder, self.manifest, archive))

        return Rows(columns=ATTEMPTS, rows=rows())

    def at_prices(
        self,
        prices: Mapping[str, PriceTable | None],
        served: Mapping[str, Mapping[str, PriceTable | None]] | None = None,
        aliases: Mapping[str, Aliases] | None = None,
        batch: Mapping[str, PriceTable | None] | None = None,
    ) -> Run:
        """Return the same run with its costs at other prices; its folder does not change.

        Args:
            prices: By target name.
            served: By target name and the model name in a reply, before those in the journal.
            aliases: By target name; a target without an entry keeps its own.
            batch: Prices in batch jobs by target name; default: half of the others.
        """
        other = Run(self.folder)

        def priced(one: ManifestTarget) -> ManifestTarget:
            gateway = replace(one.gateway, aliases=(aliases or {}).get(one.name, one.gateway.aliases))
            served_prices = (served or {}).get(one.name, {})
            now = prices[one.name]
            batch_prices = (batch or {}).get(one.name) or (None if now is None else now.as_batch())
            return replace(
                one,
                gateway=gateway,
                prices=now,
                served_prices=served_prices,
                batch_prices=batch_prices,
                is_repriced=True,
            )

        other.manifest = replace(
            self.manifest,
            targets=tuple(map(priced, self.manifest.targets)),
            judges=tuple(map(priced, self.manifest.judges)),
        )
        other._is_repriced = True
        return other

    def wide_rows(self, value: str = "reply") -> Rows:
        """Return the rows of `wide`, keys first, with one batch in memory at a time.

        Raises:
            SetupError: Unknown value.
        """
        from convbatch.results.wide import wide_rows  # it reads runs: importing it above would be circular

        return wide_rows([self], value)


def _figures(total: TargetSummary) -> list[str]:
    """Return the cells of `_FIGURES`; an unknown value is a dash."""
    counts = (total.ok, total.blocked, total.empty, total.error + total.skipped, total.open)
    numbers = (*counts, total.input_tokens, total.output_tokens)
    cost = (
        NONE
        if total.spent is None
        else f"{display_amount(total.spent)} {total.currency}" + (" + ?" if total.unpriced else "")
    )
    passed = f"{total.passed:,}/{total.judged:,}" if total.judged or total.undecided else NONE
    name = f"{total.target} (SIMULATED)" if total.simulated else total.target
    return [name, *map(number_text, numbers), cost, passed]


def load(path: str | Path) -> Run:
    """Open a run for reading, whether finished, interrupted or running.

    >>> convbatch.load(run.path).targets
    ('sim-good@simulator',)

    Args:
        path: Path of the run folder, its name under `results/`, or `latest`.

    Raises:
        SetupError: There is no such run.
    """
    return Run(RunFolder.open(find_run(str(path), RESULTS)))


def summarise_run(folder: RunFolder) -> list[TargetSummary]:
    """Sum up each target's turns, in the order of the command line; memory does not grow with the run."""
    return Run(folder).summary()
