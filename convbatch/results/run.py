"""The tables of a run: which columns there are, and how journal and dataset become rows.

The column contract lives here and nowhere else. Rows are made one dialogue at a time and go out in batches, so memory
does not grow with the run; pandas is imported only where somebody asks for a frame. How a table is written as CSV or
JSON is `export.py`, how it looks in a terminal `cli/show.py`; what a journal line means is `journal/index.py`.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
import weakref
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar

import orjson

from convbatch.checks.builtin import CheckRunner
from convbatch.errors import JournalError, Place, SetupError, did_you_mean
from convbatch.journal.index import Archive, TurnHistory
from convbatch.journal.run_folder import RunFolder, find_run, shell_quote
from convbatch.pricing import PriceTable, exact
from convbatch.reply import POSSIBLY_PAID, USAGE_COUNTS, Usage, billed_usage
from convbatch.results.conversations import gateway_of, judges_by_name, stored_conversations
from convbatch.results.costs import attempt_cost, attempt_cost_bound, find_intent, target_prices
from convbatch.results.verdicts import CheckOutcome, dialogue_pass, evaluate_checks, sum_verdicts

if TYPE_CHECKING:
    import pandas as pd

CONTRACT = 5
"""Version of the columns below and of what stands in them; a table written under another one is rebuilt."""

Dtype = Literal["string", "Int64", "Float64", "boolean", "list[string]", "timestamp[us, UTC]"]
N = TypeVar("N", int, float, Decimal)
Row: TypeAlias = tuple[Any, ...]
"""One value a column; None = null, times as aware datetimes."""
Arrow: TypeAlias = Any
"""A pyarrow object: its classes are not typed."""

RESULTS = Path("results")
STATUSES = ("ok", "blocked", "empty", "error", "skipped", "pending")
WORST_FIRST = ("pending", "error", "blocked", "empty", "skipped", "ok")
"""A conversation's status: `skipped` stands behind what caused it."""


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: Dtype
    meaning: str
    """With its unit, and when it is null."""
    is_long: bool = False
    """Texts of any length: they end a batch early, and get no statistics in the file's footer."""


TURNS: tuple[Column, ...] = (
    Column("run", "string", "name of the run"),
    Column("dialogue", "string", "id of the dialogue"),
    Column("dialogue_index", "Int64", "its position in the run's dataset, from 0"),
    Column("target", "string", "`model@gateway`"),
    Column("model", "string", "the model asked for"),
    Column("gateway", "string", "where it was asked; `simulator` on every simulated row"),
    Column("repeat", "Int64", "from 1"),
    Column("turn", "Int64", "from 1; turns that are only context count, but have no row"),
    Column("tags", "list[string]", "of the dialogue; never null"),
    Column("status", "string", "`pending`, `skipped`, `error`, `blocked`, `empty` or `ok`"),
    Column("user", "string", "text of the user message, without its media", True),
    Column(
        "reply", "string", 'visible text; `""` = empty content; null = no content at all, or no complete reply', True
    ),
    Column("thought", "string", "the model's reasoning as far as it was shown; null = none", True),
    Column("tool_calls", "string", "JSON list of `{id, name, arguments}`; null = no call", True),
    Column("steps", "Int64", "model calls this reply is made of; null without a complete reply"),
    Column(
        "finish_reason", "string", "`stop length content_filter tool_call error other`; null without a complete reply"
    ),
    Column("finish_reason_raw", "string", "the gateway's own word; null when it said none"),
    Column("blocked", "string", "`prompt` or `output`; null when nothing was blocked"),
    Column("input_tokens", "Int64", "including cached ones; null = not reported"),
    Column("cached_input_tokens", "Int64", "part of input; null = not reported"),
    Column("cache_write_input_tokens", "Int64", "part of input; null = not reported"),
    Column("output_tokens", "Int64", "including reasoning; null = not reported"),
    Column("reasoning_tokens", "Int64", "part of output; null = not reported"),
    Column("total_tokens", "Int64", "as reported; null = not reported"),
    Column("usage_source", "string", "`reported`, `partial` or `missing`; null without a complete reply"),
    Column("usage_consistent", "boolean", "is input + output the reported total? null when one of the three is"),
    Column("cost", "Float64", "of the reply that counts; null without a price, or when a count it needs is unknown"),
    Column("currency", "string", "of all three costs; null when all three are"),
    Column("price_source", "string", "whose price it is and of which day; null as `cost`"),
    Column("failed_cost", "Float64", "of attempts that reported usage and gave no reply that counts; null as `cost`"),
    Column(
        "possibly_paid_bound",
        "Float64",
        "the most that possibly paid attempts without a cost can have cost; null without one, or without a limit",
    ),
    Column("model_version", "string", "the model as the gateway named it in the reply; null when it did not"),
    Column("response_id", "string", "of the reply; null when there was none"),
    Column("request_id", "string", "of the last attempt; null when there was none"),
    Column("http_status", "Int64", "of the last attempt; null when no response came"),
    Column("attempts", "Int64", "tries of this turn over all sessions; 0 for a reused reply"),
    Column("possibly_paid", "Int64", "attempts that were sent and never fully answered"),
    Column("limiter_wait_s", "Float64", "seconds in our own gate, all attempts; null without a finished attempt"),
    Column("retry_wait_s", "Float64", "seconds of backoff, all attempts; null without a finished attempt"),
    Column("latency_s", "Float64", "seconds from send to last byte, last attempt; null without a finished attempt"),
    Column("ttft_s", "Float64", "seconds to the first text of a stream; null when not streamed"),
    Column("started_at", "timestamp[us, UTC]", "start of the last attempt; null without a finished attempt"),
    Column("error_kind", "string", "what the last attempt failed with; null for `ok`, `blocked`, `empty`, `skipped`"),
    Column("error_message", "string", "the failure in words, or why the turn was skipped; null otherwise", True),
    Column("reused_from", "string", "the run the reply was taken over from; null = asked in this run"),
    Column("checks_passed", "Int64", "of the turn; null when it has none, is pending, or none could be judged"),
    Column("checks_failed", "Int64", "null as `checks_passed`; all of them on an `error` or `skipped` row"),
    Column(
        "score", "Float64", "weighted mean of the checks' scores, 0 to 1; null as `checks_passed`, and without weight"
    ),
)

CONVERSATIONS: tuple[Column, ...] = (
    *(column for column in TURNS[:9] if column.name != "turn"),
    Column("history", "string", "`live`, `script` or `last`"),
    Column("status", "string", "the first of `pending error blocked empty skipped ok` that any turn has"),
    Column("turns", "Int64", "turns asked"),
    *(Column(name, "Int64", f"turns with status `{name}`") for name in STATUSES),
    Column("input_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("cached_input_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("output_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("reasoning_tokens", "Int64", "sum of the known counts; null when none is known"),
    Column("tokens_unknown", "Int64", "turns with a reply whose input or output count is unknown: not in the sums"),
    Column("attempts", "Int64", "tries, over all sessions"),
    Column("possibly_paid", "Int64", "attempts that were sent and never fully answered"),
    Column("reused", "Int64", "turns whose reply was taken over from another run"),
    Column("latency_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("limiter_wait_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("retry_wait_s", "Float64", "seconds, sum over the turns; null when none is known"),
    Column("response_ids", "list[string]", "ids of the replies in turn order, as far as there are any"),
    Column("checks_passed", "Int64", "of the checks on the whole dialogue; null without any, or when none was judged"),
    Column("checks_failed", "Int64", "null as `checks_passed`"),
    Column("score", "Float64", "weighted mean of these checks' scores; null as `checks_passed`, and without weight"),
    Column(
        "dialogue_pass", "boolean", "did all checks of the dialogue and its turns pass, with no turn `error` or "
        "`skipped`? null without checks, with a pending turn, and when only a check without a verdict could tell",
    ),
)  # fmt: skip

ATTEMPTS: tuple[Column, ...] = (
    *TURNS[:8],
    Column("attempt", "Int64", "from 1 within the turn, counting over all sessions"),
    Column("role", "string", "`model`, or `judge`: then `target`, `model` and `gateway` are the judge's"),
    Column("judged", "string", "of a judge: the target whose reply it was asked about; null for a model"),
    Column("class", "string", "`replied refused not_sent ambiguous timeout final abandoned`; null = lost in a kill"),
    Column("possibly_paid", "boolean", "sent and never fully answered"),
    Column("http_status", "Int64", "null when no response came"),
    Column("finish_reason", "string", "of a complete reply; null otherwise"),
    Column("error_kind", "string", "null for a complete reply and for a lost attempt"),
    Column("error_message", "string", "as `error_kind`", True),
    Column("partial_text", "string", "text of a reply that broke off; null = none", True),
    Column("input_tokens", "Int64", "null = not reported, or a running total of a reply that broke off"),
    Column("cached_input_tokens", "Int64", "null = not reported"),
    Column("cache_write_input_tokens", "Int64", "null = not reported"),
    Column("output_tokens", "Int64", "null = not reported"),
    Column("reasoning_tokens", "Int64", "null = not reported"),
    Column("total_tokens", "Int64", "null = not reported"),
    Column("cost", "Float64", "null without a price, or when a count it needs is unknown"),
    Column("cost_bound", "Float64", "the most a possibly paid attempt cost; null for others, and without a limit"),
    Column("currency", "string", "of both; null when both are"),
    Column("limiter_wait_s", "Float64", "seconds in our own gate before it; null for a lost attempt"),
    Column("retry_wait_s", "Float64", "seconds of backoff before it; null for a lost attempt"),
    Column("latency_s", "Float64", "seconds from send to last byte; null when unknown"),
    Column("ttft_s", "Float64", "seconds to the first text of a stream; null when not streamed"),
    Column("started_at", "timestamp[us, UTC]", "of a lost attempt: when it was about to leave"),
    Column("request_id", "string", "null when the gateway sent none"),
)  # fmt: skip

VERDICTS: tuple[Column, ...] = (
    *TURNS[:7],
    Column("turn", "Int64", "from 1; null: the check is on the whole dialogue"),
    Column("check", "string", "its `name`, else its kind"),
    Column("kind", "string", "with its `not_`"),
    Column("weight", "Float64", "1 unless the dataset says otherwise"),
    Column("passed", "boolean", "null: not judged, the turn is pending or no judge has answered"),
    Column("score", "Float64", "0 to 1; null as `passed`"),
    Column("reason", "string", "why, in words; never null", True),
    Column("error", "string", "why the check itself could not be carried out (it counts as failed); null otherwise"),
    Column("judge", "string", "of an `llm_rubric`: the target that was asked; null for other kinds, and when none was"),
    Column("judge_reply", "string", "its whole answer; null as `judge`, and without an answer", True),
)  # fmt: skip

WIDE: dict[str, Dtype] = {"reply": "string", "finish_reason": "string", "output_tokens": "Int64", "cost": "Float64"}
"""What `wide` can spread over the targets."""
WIDE_KEYS = ("dialogue", "repeat", "turn")

BATCH_ROWS = 2048
BATCH_CHARS = 8 * 2**20
"""A batch ends at whichever comes first; it is also a row group of the file."""

_MARK = b"convbatch.journal"
_VERSION = b"convbatch.contract"
_DAMAGE = b"convbatch.damaged_places"
_SUSPENDED = b"convbatch.parked"
_PLAN = ("targets", "history", "repeats", "judges")
"""What of `run.json` every table needs."""
_CHECKS = b"convbatch.checks"
_NAMES = tuple(column.name for column in TURNS)
_SHORT = tuple(column.name for column in TURNS if not column.is_long)
_LATENCY_STEP = math.log(1.01)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A table on its way somewhere: its columns, and rows that can be read once."""

    columns: Sequence[Column]
    rows: Iterator[Row]

    def batches(self) -> Iterator[Arrow]:
        """The rows as Arrow tables, each bounded in rows and in text."""
        for rows in _bounded(self.columns, self.rows):
            yield _arrow_table(self.columns, rows)
            rows.clear()  # or they stay while the next ones are read

    def frame(self) -> pd.DataFrame:
        """All rows as a pandas frame."""
        import pyarrow as pa

        return _to_frame(pa.concat_tables([schema(self.columns).empty_table(), *self.batches()]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSummary:
    """What became of one target's turns.

    Tokens and latencies are of the replies this run received itself: reused ones are not its spend.
    """

    target: str
    simulated: bool
    turns: int
    ok: int
    blocked: int
    empty: int
    error: int
    skipped: int
    pending: int
    input_tokens: int | None
    """Sum of the known counts; None when none is known."""
    output_tokens: int | None
    reasoning_tokens: int | None
    tokens_unknown: int
    """Replies whose input or output count is unknown, so missing in the sums."""
    attempts: int
    possibly_paid: int
    reused: int
    p50_latency_s: float | None
    """Nearest rank, within 0.5 %: latencies are counted in steps of 1 %, so that memory does not grow with the run."""
    p95_latency_s: float | None
    spent: Decimal | None
    """What the replies received and the failed attempts cost, as far as it is known; None when nothing is."""
    currency: str | None
    """Of `spent` and `at_most`."""
    unpriced: int
    """Replies received whose cost is unknown, so missing in `spent`."""
    at_most: Decimal | None
    """What the possibly paid attempts can have cost beyond `spent`; None when that is unknown of any."""
    judged: int
    """Conversations that passed or failed: those with checks, and all of them judged."""
    passed: int
    undecided: int
    """Conversations with checks that neither passed nor failed yet."""


class Run:
    """A run folder, read: frames are built on first use and kept.

    Attributes:
        path: The run folder.
        meta: What stands in `run.json`.
        targets: Target names in the order they were asked for.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.path = folder.path
        self.meta: dict[str, Any] = folder.read_meta("targets", "history", "repeats", "planned", "rates", "judges")
        self.targets: tuple[str, ...] = tuple(target["name"] for target in self.meta["targets"])
        self._is_repriced = False
        self._file = ExitStack()
        weakref.finalize(self, self._file.close)

    def __repr__(self) -> str:
        return f"<convbatch.Run {self.path}>"

    @property
    def name(self) -> str:
        """The run's own name; the same when its folder has moved."""
        return str(self.meta.get("run", self.folder.name))

    @cached_property
    def turns_path(self) -> Path:
        """A `turns.parquet` that tells what the journal tells; outside the folder when that cannot be written."""
        if self._is_repriced:  # the folder's own table has the prices of the run
            return self._file.enter_context(_scratch_file(self.folder, self.meta))
        return self._file.enter_context(turns_file(self.folder))

    @property
    def verdicts_path(self) -> Path:
        """The `verdicts.parquet` that was written with `turns_path`."""
        return _beside(self.turns_path)

    @property
    def damaged_places(self) -> int:
        """Places of the journal that could not be read and were skipped."""
        return int(self._stamp.get(_DAMAGE, b"0"))

    @property
    def suspended(self) -> dict[str, str]:
        """Targets whose open turns wait for a person, and why: what the last session said of them when it ended."""
        return orjson.loads(self._stamp.get(_SUSPENDED, b"{}"))

    @property
    def parked(self) -> dict[str, str]:
        """Deprecated name of `suspended`."""
        warnings.warn("Run.parked is now Run.suspended", DeprecationWarning, stacklevel=2)
        return self.suspended

    @cached_property
    def _stamp(self) -> dict[bytes, bytes]:
        import pyarrow.parquet as pq

        with _reading(self.turns_path) as file:
            return pq.read_schema(file).metadata or {}

    @cached_property
    def turns(self) -> pd.DataFrame:
        """One row per dialogue x target x repeat x asked turn, whatever happened to it; columns: `TURNS`."""
        import pyarrow.parquet as pq

        with _reading(self.turns_path) as file:
            return _to_frame(pq.read_table(file, page_checksum_verification=True))

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
        """One row per HTTP try, in the order of `turns`; columns: `ATTEMPTS`."""
        return self.attempt_rows().frame()

    def wide(self, value: str = "reply") -> pd.DataFrame:
        """The targets side by side: one row per (dialogue, repeat, turn), one column per target.

        Args:
            value: `reply`, `finish_reason`, `output_tokens` or `cost`.

        Returns:
            A frame whose index is (dialogue, repeat, turn) in the dataset's order.

        Raises:
            SetupError: Another value.
        """
        return self.wide_rows(value).frame().set_index(list(WIDE_KEYS))

    def summary(self) -> list[TargetSummary]:
        """What became of each target's turns, in the order of `targets`."""
        return _summarise(self.turns_path, self.meta)

    def turn_rows(self) -> Rows:
        """The rows of `turns`, one batch in memory at a time."""
        return Rows(columns=TURNS, rows=read_rows(self.turns_path, _NAMES))

    def verdict_rows(self) -> Rows:
        """The rows of `verdicts`, one batch in memory at a time."""
        return Rows(columns=VERDICTS, rows=read_rows(self.verdicts_path, tuple(column.name for column in VERDICTS)))

    def conversation_rows(self) -> Rows:
        """The rows of `conversations`, one batch in memory at a time."""
        rows = _conversation_rows(self.turns_path, str(self.meta["history"]))
        return Rows(columns=CONVERSATIONS, rows=rows)

    def attempt_rows(self) -> Rows:
        """The rows of `attempts`, one conversation in memory at a time."""

        def rows() -> Iterator[Row]:
            with Archive(self.folder) as archive:
                yield from _attempt_rows(self.folder, self.meta, archive)

        return Rows(columns=ATTEMPTS, rows=rows())

    def at_prices(self, prices: Mapping[str, PriceTable | None]) -> Run:
        """The same run with its costs at other prices, by target name; nothing in its folder changes."""
        other = Run(self.folder)
        plain = {name: None if table is None else table.to_plain() for name, table in prices.items()}
        asked = {
            role: [{**target, "prices": plain[target["name"]]} for target in self.meta.get(role) or ()]
            for role in ("targets", "judges")
        }
        other.meta = {**self.meta, **asked}
        other._is_repriced = True
        return other

    def wide_rows(self, value: str = "reply") -> Rows:
        """The rows of `wide`, keys first, one batch in memory at a time.

        Raises:
            SetupError: Another value than `wide` knows.
        """
        if value not in WIDE:
            raise SetupError(f"the table has no wide form of {value!r}", hint=did_you_mean(value, WIDE))
        keys = [column for column in TURNS if column.name in WIDE_KEYS]
        columns = [*keys, *(Column(name, WIDE[value], f"`{value}` of this target", True) for name in self.targets)]
        return Rows(columns=columns, rows=side_by_side(self.turns_path, value, self.targets))


def load(path: str | Path) -> Run:
    """A finished, interrupted or running run, to be read.

    Args:
        path: Of the run folder; or its name under `results/`, or `latest`.

    Raises:
        SetupError: There is no such run.
    """
    return Run(RunFolder.open(find_run(str(path), RESULTS)))


def write_turns(folder: RunFolder) -> Path:
    """Write the tables from the journal, judging its replies: whole or not at all, in memory that does not grow.

    Raises:
        JournalError: The disk refused, or memory; the journal is whole and any reader can build the table from it.
    """
    import pyarrow as pa

    try:
        with folder.replacing(folder.turns.name) as file, folder.replacing(folder.verdicts.name) as verdicts:
            _write(folder, folder.read_meta(*_PLAN), file, verdicts)
    except (MemoryError, pa.ArrowException) as error:
        hint = f"raise the limit on memory, then: convbatch table {shell_quote(folder.path)}"
        what = f"the tables could not be made: {str(error) or 'not enough memory'}"
        raise JournalError(what, place=Place(path=str(folder.turns)), hint=hint) from error
    return folder.turns


def is_fresh(folder: RunFolder) -> bool:
    """Do both tables tell what the journal tells, in this version's columns and judged by the folder's checks?"""
    stamp = _marks(folder)
    tables = ((folder.turns, TURNS), (folder.verdicts, VERDICTS))
    return all(stamp.items() <= _stamp_of(path, columns).items() for path, columns in tables)


def _marks(folder: RunFolder) -> dict[bytes, bytes]:
    """What the tables of a folder must be stamped with to be fresh."""
    return {
        _MARK: folder.journal_mark().encode(),
        _VERSION: b"%d" % CONTRACT,
        _CHECKS: folder.checks_mark().encode(),
    }


def _stamp_of(path: Path, columns: Sequence[Column]) -> dict[bytes, bytes]:
    """What a table file says of itself; nothing where it is not this table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            found = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return {}
    return (found.metadata or {}) if found.equals(schema(columns)) else {}


def _beside(turns: Path) -> Path:
    return turns.with_name("verdicts.parquet")


@contextmanager
def turns_file(folder: RunFolder) -> Generator[Path]:
    """A fresh `turns.parquet`: the folder's own, rebuilt there where it is stale, or a temporary one if need be."""
    if is_fresh(folder):
        yield folder.turns
        return
    try:
        path = write_turns(folder)
    except JournalError:  # somebody else's folder, or a full disk: reading must still be possible
        with _scratch_file(folder, folder.read_meta(*_PLAN)) as path:
            yield path
    else:
        yield path


@contextmanager
def _scratch_file(folder: RunFolder, meta: Mapping[str, Any]) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="convbatch-") as scratch:
        path = Path(scratch, folder.turns.name)
        with path.open("wb") as file, _beside(path).open("wb") as verdicts:
            _write(folder, meta, file, verdicts)
        yield path


def summarise_run(folder: RunFolder) -> list[TargetSummary]:
    """What became of each target's turns, in the order they were asked for; memory does not grow with the run."""
    return Run(folder).summary()


def schema(columns: Sequence[Column], metadata: Mapping[bytes, bytes] | None = None) -> Arrow:
    """The Arrow schema of a table."""
    import pyarrow as pa

    return pa.schema([pa.field(column.name, _arrow_type(column.dtype)) for column in columns], metadata=metadata)


def read_rows(path: Path, names: Sequence[str], *, only: tuple[str, int] | None = None) -> Iterator[Row]:
    """The named columns of a table file, row by row, one row group in memory at a time.

    Args:
        path: The file.
        names: Columns, in the order wanted.
        only: A number column and the value its rows must have; row groups that cannot have it are not read.
    """
    import pyarrow.parquet as pq

    read = list(names) if only is None else [*names, only[0]]
    with _reading(path) as opened, pq.ParquetFile(opened, page_checksum_verification=True) as file:
        groups = range(file.num_row_groups) if only is None else _groups_with(file, *only)
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=list(groups), columns=list(set(read))):
            rows = zip(*(_cells(batch.column(name)) for name in read), strict=True)
            yield from rows if only is None else (row[:-1] for row in rows if row[-1] == only[1])


def side_by_side(path: Path, value: str, targets: Sequence[str]) -> Iterator[Row]:
    """Any column of a table file spread over the targets: `WIDE_KEYS`, then a cell for each target."""
    names = ("dialogue_index", "dialogue", "repeat", "turn", "target", value)
    for (_, dialogue), group in groupby(read_rows(path, names), key=itemgetter(0, 1)):
        cells: defaultdict[tuple[int, int], dict[str, Any]] = defaultdict(dict)
        for _, _, repeat, turn, target, cell in group:
            cells[repeat, turn][target] = cell
        for (repeat, turn), row in sorted(cells.items()):
            yield (dialogue, repeat, turn, *(row.get(target) for target in targets))


@contextmanager
def _reading(path: Path) -> Generator[IO[bytes]]:
    """A table file whose damage is told as what it is; opened, for names mean more to pyarrow (`~`, URIs, UTF-8)."""
    import pyarrow as pa

    try:
        with path.open("rb") as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise SetupError(
            "the table cannot be read",
            place=Place(path=str(path)),
            found=str(error).strip().split("\n")[0][:200],
            hint=f"remove it; the next command builds it anew from the journal: rm {shell_quote(path)}",
        ) from error


def _cells(array: Arrow) -> list[Any]:
    import pyarrow as pa

    if not pa.types.is_timestamp(array.type):
        return array.to_pylist()
    # Its own way to a datetime asks pandas first, and imports it for that.
    ticks = array.cast(pa.int64()).to_pylist()
    return [None if tick is None else _EPOCH + timedelta(microseconds=tick) for tick in ticks]


def _groups_with(file: Arrow, name: str, value: int) -> Iterator[int]:
    place = file.schema_arrow.get_field_index(name)
    for number in range(file.num_row_groups):
        found = file.metadata.row_group(number).column(place).statistics
        if found is None or found.min <= value <= found.max:
            yield number


def _write(folder: RunFolder, meta: Mapping[str, Any], file: IO[bytes], verdicts: IO[bytes]) -> None:
    marks = _marks(folder)  # taken first: what a writer appends from here on makes the tables stale, never wrong
    with Archive(folder) as archive:
        stamp = {**marks, _DAMAGE: b"%d" % archive.damage_count, _SUSPENDED: _json(archive.suspended).encode()}
        with _writer(file, TURNS, stamp) as turn_file, _writer(verdicts, VERDICTS, marks) as verdict_file:
            given: list[Row] = []
            for batch in Rows(columns=TURNS, rows=_turn_rows(folder, meta, archive, given, verdict_file)).batches():
                turn_file.write_table(batch)
            if given:
                verdict_file.write_table(_arrow_table(VERDICTS, given))


def _writer(file: IO[bytes], columns: Sequence[Column], stamp: Mapping[bytes, bytes]) -> Arrow:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(
        file,
        schema(columns, stamp),
        compression="zstd",
        write_page_checksum=True,
        write_statistics=[column.name for column in columns if not column.is_long],  # pyright: ignore[reportArgumentType]  # names are accepted, its stub has only bool
    )


def _bounded(columns: Sequence[Column], rows: Iterable[Row]) -> Iterator[list[Row]]:
    long = [number for number, column in enumerate(columns) if column.is_long and column.dtype == "string"]
    batch: list[Row] = []
    chars = 0
    for row in rows:
        batch.append(row)
        for number in long:
            chars += len(row[number] or "")
        if len(batch) >= BATCH_ROWS or chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


def _arrow_type(dtype: Dtype) -> Arrow:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "Int64": pa.int64(),
        "Float64": pa.float64(),
        "boolean": pa.bool_(),
        "list[string]": pa.list_(pa.string()),
        "timestamp[us, UTC]": pa.timestamp("us", tz="UTC"),
    }[dtype]


def _arrow_table(columns: Sequence[Column], rows: Sequence[Row]) -> Arrow:
    """Rows as Arrow, by way of JSON: `pa.array` would import pandas, whose two seconds and 80 MB no run should pay."""
    import pyarrow as pa

    try:
        return _parsed(columns, rows)
    except (TypeError, pa.ArrowException):
        # Gateways have sent both: a count beyond 64 bits says nothing, half a surrogate pair has no UTF-8.
        return _parsed(columns, [tuple(map(_encodable, row)) for row in rows])


def _parsed(columns: Sequence[Column], rows: Sequence[Row]) -> Arrow:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    names = [column.name for column in columns]
    text = bytearray()  # and no list of lines: each one keeps the room orjson took for it, ten times its length
    for row in rows:
        cells = {name: cell for name, cell in zip(names, row, strict=True) if cell is not None}
        text += orjson.dumps(cells, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    reading = arrow_json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    parsing = arrow_json.ParseOptions(explicit_schema=schema(columns), unexpected_field_behavior="error")
    return arrow_json.read_json(pa.BufferReader(text), read_options=reading, parse_options=parsing)


def _encodable(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(cell, int) and not -(2**63) <= cell < 2**63:
        return None
    return cell


def _to_frame(table: Arrow) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.float64(): pd.Float64Dtype(), pa.bool_(): pd.BooleanDtype()}

    def dtype(kind: Arrow) -> Any:
        if pa.types.is_string(kind):
            return pd.StringDtype()
        return pd.ArrowDtype(kind) if pa.types.is_list(kind) else nullable.get(kind)

    return table.replace_schema_metadata(None).to_pandas(types_mapper=dtype)


def _turn_rows(
    folder: RunFolder, meta: Mapping[str, Any], archive: Archive, given: list[Row], verdict_file: Arrow
) -> Iterator[Row]:
    """The rows of `turns`; those of `verdicts` go to their file meanwhile, the last of them stay in `given`."""
    check_runner = CheckRunner()
    for stored in stored_conversations(folder, meta, archive):
        dialogue = stored.dialogue
        verdicts = {
            turn: list(many) for turn, many in groupby(evaluate_checks(stored.result, check_runner), attrgetter("turn"))
        }
        given += (_verdict_row(stored.head, one) for many in verdicts.values() for one in many)
        if len(given) >= BATCH_ROWS:
            verdict_file.write_table(_arrow_table(VERDICTS, given))
            given.clear()
        for number, past in stored.asked.items():
            yield (
                *stored.head,
                number,
                list(dialogue.tags),
                *_turn_cells(past, dialogue.turns[number - 1].user_text, stored.prices),
                *sum_verdicts(
                    (one.verdict.passed, one.verdict.score, one.check.weight) for one in verdicts.get(number, ())
                ),
            )


def _verdict_row(head: Row, outcome: CheckOutcome) -> Row:
    check, judge_call = outcome.check, outcome.judge_call
    kept = None if judge_call is None else judge_call.history.kept
    answer = None if kept is None else kept["reply"].get("text")
    judge = None if judge_call is None else judge_call.judge
    return (*head, outcome.turn, check.name, check.kind, check.weight, *outcome.verdict, judge, answer)


def _turn_cells(past: TurnHistory, user: str, prices: PriceTable | None) -> Row:
    """`status` to `reused_from`."""
    reply: Mapping[str, Any] = past.kept["reply"] if past.kept else {}
    usage: Mapping[str, Any] = reply.get("usage", {})
    mine = [outcome for outcome in past.outcomes if outcome.get("key") == past.key]
    last: Mapping[str, Any] = past.kept or (mine[-1] if mine else {})
    return (
        past.status or "pending",
        user,
        reply.get("text"),
        reply.get("thought"),
        _json(reply["tool_calls"]) if reply.get("tool_calls") else None,
        1 if reply else None,
        reply.get("finish_reason"),
        reply.get("finish_reason_raw"),
        reply.get("blocked"),
        *(usage.get(name) for name in USAGE_COUNTS),
        usage.get("source"),
        usage.get("consistent"),
        *_costs(prices, past),
        reply.get("model_version"),
        reply.get("response_id"),
        last.get("request_id"),
        last.get("http_status"),
        past.attempts,
        past.possibly_paid,
        _sum(_waited_s(outcome, "limiter_wait_s") for outcome in past.outcomes),
        _sum(_waited_s(outcome, "retry_wait_s") for outcome in past.outcomes),
        last.get("latency_s"),
        last.get("ttft_s"),
        _to_datetime(last.get("started_at")),
        *_error_cells(past, reply),
        past.reused_from,
    )


def _cost(prices: PriceTable | None, record: Mapping[str, Any] | None) -> tuple[float | None, str | None, str | None]:
    """`cost`, `currency` and `price_source`.

    A float carries 15 digits of a decimal there and back (`pricing.exact`), so sums are made without its errors.
    """
    cost = attempt_cost(prices, record)
    if cost is None or prices is None or record is None:
        return None, None, None
    return float(cost), prices.currency, prices.source_at(record["started_at"])


def _costs(prices: PriceTable | None, past: TurnHistory) -> Row:
    """`cost` to `possibly_paid_bound`."""
    cost, currency, source = _cost(prices, past.kept)
    if prices is None:
        return None, None, None, None, None
    bills = [_attempt_cost(attempt, past, prices) for attempt in _attempt_records(past) if attempt is not past.kept]
    failed = _float(_sum(bill.cost for bill in bills))
    unknown = [bill.bound for bill in bills if bill.is_possibly_paid and bill.cost is None]
    bound = None
    if past.possibly_paid and None not in unknown:
        bound = float(_sum(unknown) or 0)
    if currency is None and (failed is not None or bound is not None):
        currency = prices.currency
    return cost, currency, source, failed, bound


class _AttemptCost(NamedTuple):
    """What one attempt cost, or can have cost."""

    is_possibly_paid: bool
    cost: Decimal | None
    bound: Decimal | None


def _attempt_cost(attempt: Mapping[str, Any], past: TurnHistory, prices: PriceTable | None) -> _AttemptCost:
    if attempt["kind"] == "intent":
        possibly_paid = past.in_flight_from is None or attempt["seq"] < past.in_flight_from
    else:
        possibly_paid = attempt["class"] in POSSIBLY_PAID
    cost = attempt_cost(prices, attempt)
    bound = (
        attempt_cost_bound(prices, find_intent(past, attempt["attempt"])) if possibly_paid and cost is None else None
    )
    return _AttemptCost(possibly_paid, cost, bound)


def _attempt_records(past: TurnHistory) -> list[dict[str, Any]]:
    """Every attempt this run made for a turn: its `outcome` record, or the `intent` record that has none."""
    made = [outcome for outcome in past.outcomes if outcome["attempt"]]
    waiting = {intent["attempt"]: intent for intent in past.open_intents}
    return sorted([*made, *waiting.values()], key=itemgetter("attempt", "seq"))


def _float(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _error_cells(past: TurnHistory, reply: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """`error_kind` and `error_message`."""
    if past.status == "skipped":
        return None, past.reason
    if past.status not in (None, "error"):
        return None, None
    if reply:
        return "malformed_output", past.reason or f"the generation broke: {reply.get('finish_reason_raw')}"
    if past.last_failure is not None:
        failure = past.last_failure["error"]
        return failure["kind"], failure["message"]
    return None, past.reason


def _attempt_rows(folder: RunFolder, meta: Mapping[str, Any], archive: Archive) -> Iterator[Row]:
    judges = {name: (judge, target_prices(judge)) for name, judge in judges_by_name(meta, archive).items()}
    for stored in stored_conversations(folder, meta, archive):
        for number, past in stored.turns.items():
            for attempt in _attempt_records(past):
                yield (*stored.head, number, *_attempt_cells(attempt, past, stored.prices, None))
        run, dialogue, index, *_, repeat = stored.head
        for judge_call in stored.judge_calls:
            judge, prices = judges[judge_call.judge]
            head = (run, dialogue, index, judge_call.judge, judge["model"], gateway_of(judge), repeat)
            for attempt in _attempt_records(judge_call.history):
                yield (*head, judge_call.turn, *_attempt_cells(attempt, judge_call.history, prices, judge_call.target))


def _attempt_cells(attempt: Mapping[str, Any], past: TurnHistory, prices: PriceTable | None, judged: str | None) -> Row:
    """`attempt` to `request_id`, of an `outcome` record or of an `intent` that has none."""
    reply: Mapping[str, Any] = attempt.get("reply", {})
    failure: Mapping[str, Any] = attempt.get("error", {})
    usage = Usage(**(reply or failure).get("usage", {}))
    usage = billed_usage(attempt.get("class", ""), failure.get("kind"), usage)
    bill = _attempt_cost(attempt, past, prices)
    return (
        attempt["attempt"],
        attempt.get("role", "model"),
        judged,
        attempt.get("class"),
        bill.is_possibly_paid,
        attempt.get("http_status"),
        reply.get("finish_reason"),
        failure.get("kind"),
        failure.get("message"),
        failure.get("text"),
        *(getattr(usage, name) for name in USAGE_COUNTS),
        _float(bill.cost),
        _float(bill.bound),
        None if prices is None or (bill.cost is None and bill.bound is None) else prices.currency,
        _waited_s(attempt, "limiter_wait_s"),
        _waited_s(attempt, "retry_wait_s"),
        attempt.get("latency_s"),
        attempt.get("ttft_s"),
        _to_datetime(attempt["at"] if attempt["kind"] == "intent" else attempt.get("started_at")),
        attempt.get("request_id"),
    )


def _waited_s(record: Mapping[str, Any], name: str) -> float | None:
    """A wait of a finished attempt: the journal leaves out those of no time at all. Null for a lost or reused one."""
    return record.get(name, 0.0) if record["kind"] == "outcome" and record["attempt"] else None


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers beyond 64 bits, half surrogate pairs
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _sum(values: Iterable[N | None]) -> N | None:
    total = None
    for value in values:
        if value is not None:
            total = value if total is None else total + value
    return total


def _to_datetime(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


_CONVERSATION = ("dialogue_index", "target", "repeat")


def _verdict_groups(path: Path) -> Generator[list[Row], tuple[int, str, int]]:
    """Send a conversation's key, in the table's order; get its verdicts as (turn, passed, score, weight)."""
    names = (*_CONVERSATION, "turn", "passed", "score", "weight")
    groups = groupby(read_rows(_beside(path), names), key=itemgetter(0, 1, 2))
    due = next(groups, None)
    found: list[Row] = []
    while True:
        wanted = yield found
        found = []
        if due is not None and due[0] == wanted:
            found = [row[3:] for row in due[1]]
            due = next(groups, None)


def _conversation_rows(path: Path, history: str) -> Iterator[Row]:
    key = itemgetter(*(_SHORT.index(name) for name in _CONVERSATION))
    verdicts = _verdict_groups(path)
    next(verdicts)
    for conversation, rows in groupby(read_rows(path, _SHORT), key=key):
        cells = dict(zip(_SHORT, zip(*rows, strict=True), strict=True))
        given = verdicts.send(conversation)
        yield (
            *(cells[column.name][0] for column in CONVERSATIONS[:8]),
            history,
            *_statuses(cells["status"]),
            *(
                _sum(cells[name])
                for name in ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
            ),
            sum(map(_is_uncounted, cells["finish_reason"], cells["input_tokens"], cells["output_tokens"])),
            sum(cells["attempts"]),
            sum(cells["possibly_paid"]),
            sum(source is not None for source in cells["reused_from"]),
            *(_sum(cells[name]) for name in ("latency_s", "limiter_wait_s", "retry_wait_s")),
            [response for response in cells["response_id"] if response is not None],
            *sum_verdicts(row[1:] for row in given if row[0] is None),
            dialogue_pass(cells["status"], [row[1] for row in given]),
        )


def _statuses(statuses: Sequence[str]) -> Row:
    """`status` to `pending` of a conversation."""
    counts = Counter(statuses)
    worst = next(status for status in WORST_FIRST if counts[status])
    return (worst, len(statuses), *(counts[status] for status in STATUSES))


def _is_uncounted(finish_reason: str | None, given: int | None, taken: int | None) -> bool:
    """A reply came, and it is not known what it used."""
    return finish_reason is not None and (given is None or taken is None)


class _TargetCounts:
    """One target's row of the closing table, turn by turn, in memory that does not grow with the turns."""

    READS = (
        "target", "status", "finish_reason", "input_tokens", "output_tokens", "reasoning_tokens", "attempts",
        "possibly_paid", "latency_s", "reused_from", "dialogue_index", "repeat", "cost", "currency", "failed_cost",
        "possibly_paid_bound",
    )  # fmt: skip

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._tokens: dict[str, int | None] = {"input_tokens": None, "output_tokens": None, "reasoning_tokens": None}
        self._latencies: Counter[int] = Counter()
        self._spent: Decimal | None = None
        self._at_most: Decimal | None = Decimal(0)
        self._currency: str | None = None
        self._passes: Counter[bool | None] = Counter()

    def add_conversation(self, passed: bool | None) -> None:
        """Count a conversation that has checks."""
        self._passes[passed] += 1

    def add(self, row: Row) -> None:
        """Count a turn; `row` has the columns `READS`."""
        _, status, finish_reason, given, taken, reasoning, attempts, possibly_paid, latency_s, reused_from, *more = row
        cost, currency, failed_cost, bound = more[2:]
        self._counts.update((status, "turns"))
        self._counts["attempts"] += attempts
        self._counts["possibly_paid"] += possibly_paid
        self._currency = currency or self._currency
        self._spend(failed_cost)
        if possibly_paid:
            self._at_most = None if self._at_most is None or bound is None else self._at_most + exact(bound)
        if reused_from is not None:
            self._counts["reused"] += 1
        elif finish_reason is not None:
            self._spend(cost)
            self._counts["unpriced"] += cost is None
            self._counts["tokens_unknown"] += _is_uncounted(finish_reason, given, taken)
            for name, count in zip(self._tokens, (given, taken, reasoning), strict=True):
                self._tokens[name] = _sum((self._tokens[name], count))
            if latency_s is not None:
                self._latencies[math.floor(math.log(max(latency_s, 1e-6)) / _LATENCY_STEP)] += 1

    def _spend(self, cost: float | None) -> None:
        if cost is not None:
            self._spent = (self._spent or Decimal(0)) + exact(cost)

    def close(self, target: Mapping[str, Any]) -> TargetSummary:
        """What was counted."""
        counted = ("turns", *STATUSES, "tokens_unknown", "attempts", "possibly_paid", "reused", "unpriced")
        return TargetSummary(
            target=target["name"],
            simulated=target["simulated"],
            p50_latency_s=self._latency(0.50),
            p95_latency_s=self._latency(0.95),
            spent=self._spent,
            currency=self._currency,
            at_most=self._at_most,
            judged=self._passes[True] + self._passes[False],
            passed=self._passes[True],
            undecided=self._passes[None],
            **self._tokens,
            **{name: self._counts[name] for name in counted},
        )

    def _latency(self, share: float) -> float | None:
        due = math.ceil(share * self._latencies.total())
        for step, count in sorted(self._latencies.items()):
            due -= count
            if due <= 0:
                return math.exp((step + 0.5) * _LATENCY_STEP)
        return None


def _summarise(path: Path, meta: Mapping[str, Any]) -> list[TargetSummary]:
    tallies = {target["name"]: _TargetCounts() for target in meta["targets"]}
    key = itemgetter(*(_TargetCounts.READS.index(name) for name in _CONVERSATION))
    verdicts = _verdict_groups(path)
    next(verdicts)
    for conversation, rows in groupby(read_rows(path, _TargetCounts.READS), key=key):
        mine, statuses = tallies[conversation[1]], list[str]()
        for row in rows:
            mine.add(row)
            statuses.append(row[1])
        given = verdicts.send(conversation)
        if given:
            mine.add_conversation(dialogue_pass(statuses, [passed for _, passed, _, _ in given]))
    return [tallies[target["name"]].close(target) for target in meta["targets"]]
