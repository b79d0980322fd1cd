"""Errors that a user can fix.

Every message has three parts: what, where (`Place`), how to fix it (`hint`). An error of a gateway is not an exception
but a result in the tables, a `Failure` (see `reply.py`). A traceback on the terminal is a bug in convbatch.

    ConvbatchError            exit code 2 unless noted (`exit_codes.py`)
    ├─ InputError             a user's file is wrong; carries one or many `Problem`s
    ├─ SetupError             a missing key, an unknown name, an invalid option, a folder in use
    ├─ JournalError           the journal could not be written: exit 5
    ├─ JournalDamaged         the journal is damaged and cannot be used without `--salvage`
    └─ NotEnoughMemory        the machine has no memory left for this
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import unicodedata
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from convbatch.exit_codes import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a problem is: `path:line: field`, as far as known; in a Python value `path[index]: field`."""

    path: str
    line: int | None = None
    field: str | None = None
    index: int | None = None
    """Position in the value that `path` names, from 0."""

    def __str__(self) -> str:
        text = self.path if self.line is None else f"{self.path}:{self.line}"
        text = text if self.index is None else f"{text}[{self.index}]"
        return text if self.field is None else f"{text}: {self.field}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem, its place, and how to fix it."""

    what: str
    place: Place | None = None
    found: str | None = None
    hint: str | None = None
    cause: str | None = None
    """What many problems have in common, where `what` names a value of one of them; see `one_cause_once`."""

    def __str__(self) -> str:
        head = self.what if self.place is None else f"{self.place}: {self.what}"
        lines = [head]
        if self.found is not None:
            lines.append(f"  found: {self.found}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """A problem found by code that knows the value but not its file."""

    what: str
    field: str | None = None
    found: str | None = None
    hint: str | None = None
    line: int | None = None
    """Where the value itself has several lines: the line of the file."""

    def at(self, path: str, line: int | None = None) -> Problem:
        """Return the problem with its place."""
        place = Place(path=path, line=self.line if line is None else line, field=self.field)
        return Problem(what=self.what, place=place, found=self.found, hint=self.hint)


_SHOWN_EACH = 3
_LINES_NAMED = 8
_CAUSES_REMEMBERED = 1_000


def one_cause_once(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield problems in order, but of those with the same cause only the first few; at the end a count of the others.

    Problems of one file have the same cause when they differ only in numbers, in what was found, or in their line.
    """
    repeats: dict[tuple[str, str], _Repeats] = {}
    for problem in problems:
        cause = (
            problem.place.path if problem.place is not None else "",
            problem.cause or _NUMBERS.sub("#", problem.what),
        )
        repeat = repeats.get(cause)
        if repeat is None:
            if len(repeats) < _CAUSES_REMEMBERED:
                repeats[cause] = _Repeats(problem)
            yield problem
        elif repeat.counts(problem):
            yield problem
    for repeat in repeats.values():
        if repeat.left:
            yield repeat.rest()


_NUMBERS = re.compile(r"\d+")


class _Repeats:
    """The problems of one cause: how many there are, and the places of the first that are not shown."""

    def __init__(self, first: Problem) -> None:
        self.left = 0
        self._first = first
        self._shown = 1
        self._lines: list[str] = []

    def counts(self, problem: Problem) -> bool:
        """Count one more; return whether it is still shown by itself."""
        if self._shown < _SHOWN_EACH:
            self._shown += 1
            return True
        self.left += 1
        if problem.place is not None and problem.place.line is not None and len(self._lines) < _LINES_NAMED:
            self._lines.append(str(problem.place.line))
        return False

    def rest(self) -> Problem:
        """Return one problem for those that are not shown."""
        total = self.left + self._shown
        times = "time" if self.left == 1 else "times"
        what = f"the same {self.left} more {times} ({total} in all): {self._first.cause or self._first.what}"
        lines = ", ".join(self._lines) + (", …" if self.left > len(self._lines) else "")
        path = None if self._first.place is None else Place(path=self._first.place.path)
        return Problem(what=what, place=path, found=f"line{'s' * (self.left > 1)} {lines}" if self._lines else None)


class ConvbatchError(Exception):
    """Base of all errors that the command line prints without a traceback.

    >>> try:
    ...     convbatch.run(dataset, models="sim-god@simulater")
    ... except ConvbatchError as error:
    ...     print(str(error).split(" in ")[0])
    unknown gateway 'simulater'
    """

    exit_code = ExitCode.SETUP

    def __init__(
        self, what: str, *, place: Place | None = None, found: str | None = None, hint: str | None = None
    ) -> None:
        self.problems: tuple[Problem, ...] = (Problem(what=what, place=place, found=found, hint=hint),)
        super().__init__(str(self.problems[0]))

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> Self:
        """Bundle several problems; `problems` must not be empty."""
        error = cls(problems[0].what, place=problems[0].place, found=problems[0].found, hint=problems[0].hint)
        error.problems = tuple(problems)
        error.args = ("\n".join(str(problem) for problem in problems),)
        return error


class InputError(ConvbatchError):
    """A user's file cannot be used; contains every problem found, not only the first.

    >>> try:
    ...     Dataset(["Hello", {"turns": []}])
    ... except InputError as error:
    ...     print(error.problems[0].place)
    dataset[1]
    """


class SetupError(ConvbatchError):
    """The command cannot start: a missing key, an unknown name, a folder in use.

    >>> try:
    ...     convbatch.load("no-such-run")
    ... except SetupError as error:
    ...     print(type(error).__name__)
    SetupError
    """


class JournalError(ConvbatchError):
    """The journal could not be written (disk full, I/O error): the run stops, synced records are kept."""

    exit_code = ExitCode.JOURNAL


class JournalReplaced(JournalError):
    """The file that is written is no longer the one in the run folder, or was changed from outside."""


class JournalDamaged(ConvbatchError):
    """The journal is damaged before its end; `resume --salvage` sets the damage aside."""


class NotEnoughMemory(ConvbatchError):
    """Memory is used up: a limit of the machine or of the process, not a bug."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(
            "there is not enough memory for this",
            found=f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": "),
            hint="raise the memory limit (ulimit -v, the container's), or do less at once: a lower -j, fewer runs",
        )


_MEMORY_WORDS = re.compile(
    "out of memory|cannot allocate memory|bad.alloc|failed to map segment|can't start new thread|launch worker thread",
    re.IGNORECASE,
)
"""Words of the system and of libraries that report missing memory with an exception of another type."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory is used up."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_out_of_memory, error.exceptions))
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_system = isinstance(error, RuntimeError | ImportError) or type(error).__module__ in ("sqlite3", "pyarrow.lib")
    return isinstance(error, MemoryError) or (is_system and _MEMORY_WORDS.search(str(error)) is not None)


@contextlib.contextmanager
def naming_memory_errors() -> Generator[None]:
    """Raise `NotEnoughMemory` in place of an exception that says that memory is used up."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(error) from error


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `name`, None without a close one; case, width and blanks do not count."""
    plain: dict[str, str] = {}
    for each in known:
        plain.setdefault(_plain(each), each)
    wanted = _plain(name)
    close = difflib.get_close_matches(wanted, plain, n=3, cutoff=0.6)
    begun = sorted((each for each in plain if _begins(wanted, each)), key=len)
    return next((plain[each] for each in [*close, *begun] if _is_near(wanted, each)), None)


_SURE = 0.75


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip(" \t\u200b\ufeff").replace("-", "_")


def _is_near(name: str, known: str) -> bool:
    """Whether one is a slip of the other: two of three characters alone make `assert` look like `user`."""
    if _begins(name, known) or difflib.SequenceMatcher(None, known, name).ratio() >= _SURE:
        return True
    if len(name) > _SHORT and name[:_SHORT] == known[:_SHORT]:  # `replies` for `reply`
        return True
    swapped = sorted(name) == sorted(known)  # `rnu`
    return swapped or (name[:1] == known[:1] and abs(len(name) - len(known)) <= 1 and len(name) <= _SHORT)


def _begins(name: str, known: str) -> bool:
    """Whether a name is a short form of the known one, such as `temp`, or lacks some of its words, as `max_tokens`."""
    has_all = "_" in name and set(name.split("_")) <= set(known.split("_"))
    return len(name) > 2 and (known.startswith(name) or has_all)


_SHORT = 4
"""Names of so few characters that one wrong one is a third of them."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint with the closest known name, and all known names."""
    names = sorted(known)
    close = nearest(name, names)
    listed = "known: " + ", ".join(names)
    return listed if close is None else f"did you mean {close!r}? {listed}"


def repeat_hint(option: str, value: str) -> str | None:
    """Return how to give several values to an option that was given one list of them; None for a single value."""
    values = [part.strip() for part in re.split("[,，、;；]", value) if part.strip()]
    return f"repeat the option: {' '.join(f'{option} {each}' for each in values)}" if len(values) > 1 else None


@contextlib.contextmanager
def named_by_keyword(names: Mapping[str, str]) -> Generator[None]:
    """Rewrite the errors of this block for callers from Python: `--max-cost 5USD` becomes `max_cost="5USD"`.

    Args:
        names: Keyword argument by option, e.g. `max_cost` by `--max-cost`.
    """
    try:
        yield
    except ConvbatchError as error:
        error.problems = tuple(_with_keywords(problem, names) for problem in error.problems)
        error.args = ("\n".join(map(str, error.problems)),)
        raise


def _with_keywords(problem: Problem, names: Mapping[str, str]) -> Problem:
    what, hint, found = problem.what, problem.hint, problem.found
    return replace(
        problem,
        what=with_keywords(what, names),
        hint=None if hint is None else with_keywords(hint, names),
        found=with_keywords(found, names) if found is not None and found.startswith("-") else found,  # else a value
    )


_COMMAND = re.compile(r"(`convbatch [^`]*`|convbatch (?:run|resume|check|table|compare|doctor) .*)")
_OPTION = re.compile(
    r"""(?<![\w=/-])(?<!docker\ )(?<!jq\ ) (--?[a-z][a-z-]*)
    (?:[ ](
        (?<=-[mgp][ ]) (?!(?:names|that|is|and|or)\b) [^\s,;:?)'"]+  # these options are never named without a value
      | '[^']*' | "[^"]*" | [0-9][\w.%]*
      | [A-Z][A-Z@=_.]*(?![a-z])  # a placeholder
      | live | script | last
      | [^\s'"]*[@=][^\s,;?'"]+
    ))?""",
    re.VERBOSE,
)


def with_keywords(text: str, names: Mapping[str, str]) -> str:
    """Rewrite the options in a text as keyword arguments; commands in it stay as they are."""

    def keyword(match: re.Match[str]) -> str:
        name, value = names.get(match[1]), match[2]
        if name is None:
            return match[0]
        is_plain = value is None or value[0] in "'\"" or re.fullmatch(r"[0-9.]+|[A-Z][A-Z@=_.]*", value)
        return f"{name}={value or ''}" if is_plain else f'{name}="{value}"'

    parts = _COMMAND.split(text)  # every other part is a command
    return "".join(part if index % 2 else _OPTION.sub(keyword, part) for index, part in enumerate(parts))
