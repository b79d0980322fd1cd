"""The values a session starts from and ends with: `SessionSpec`, `Work` and `SessionResult`.

`prepare.py` and `judge.py` build a `SessionSpec`; `session.py` executes it. Nothing here reads options or sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from convbatch.config.credentials import Credentials
    from convbatch.config.gateways import Target
    from convbatch.dialogue import Dialogue
    from convbatch.engine.budget import Cap
    from convbatch.engine.conversation import Past
    from convbatch.engine.plan import Conversation
    from convbatch.engine.runner import Runner, RunRules
    from convbatch.errors import ConvbatchError
    from convbatch.exit_codes import ExitCode
    from convbatch.journal.index import Archive
    from convbatch.journal.manifest import Manifest, ManifestTarget
    from convbatch.journal.run_folder import RunFolder
    from convbatch.pricing import Money
    from convbatch.session.options import ResumeOptions, RunOptions
    from convbatch.session.status_lines import RunStatus

Role = Literal["model", "judge"]


class Work(Protocol):
    """What a session asks: the turns of a run (`ModelWork`), or the questions to its judge (`judge.JudgeWork`)."""

    @property
    def role(self) -> Role:
        """Role of the session in the journal."""
        ...

    @property
    def unit(self) -> str:
        """What the progress bar counts, singular."""
        ...

    def plan(self, spec: SessionSpec, target: Target, past: Archive | None) -> Iterator[Conversation]:
        """Return the conversations of one target in admission order, including those that are finished."""
        ...

    def count_rows(self, spec: SessionSpec, past: Archive | None) -> int:
        """Count the turns or questions in the plans of all targets."""
        ...

    def past_turns(self, past: Archive) -> Past:
        """Return a function that looks up what earlier sessions left of a conversation."""
        ...

    def recorded_targets(self, manifest: Manifest) -> Sequence[ManifestTarget]:
        """Return the entries of `run.json` that hold the prices of what is asked."""
        ...

    def initial_state(self, folder: RunFolder) -> str:
        """Return the run's state to write into `run.json` before the first request."""
        ...

    def final_state(self, result: SessionResult) -> str | None:
        """Return the run's state to write into `run.json` after the last request; None = leave `run.json` as it is."""
        ...


class ModelWork:
    """The turns of the run's dataset, asked of its targets."""

    role: Role = "model"
    unit = "turn"

    def plan(self, spec: SessionSpec, target: Target, past: Archive | None) -> Iterator[Conversation]:
        """Return every dialogue of the run's dataset, repeated as the rules say."""
        from convbatch.dataset.snapshot import read_copy
        from convbatch.engine.plan import conversations, conversations_in_rounds

        def read() -> Iterator[tuple[int, Dialogue]]:
            return ((index, target.asked(dialogue)) for index, dialogue in read_copy(spec.folder.dataset))

        if spec.rules.in_rounds:
            return conversations_in_rounds(read, target, spec.rules.repeats)
        return conversations(read(), target, spec.rules.repeats)

    def count_rows(self, spec: SessionSpec, past: Archive | None) -> int:
        """Return the count that was taken when the run was planned."""
        return spec.manifest.planned.rows

    def past_turns(self, past: Archive) -> Past:
        """Return a look-up of the turns of a conversation's transcript."""
        return lambda conversation: (
            past.transcript(conversation.index, conversation.target.name, conversation.repeat).turns
        )

    def recorded_targets(self, manifest: Manifest) -> Sequence[ManifestTarget]:
        """Return the targets of the run."""
        return manifest.targets

    def initial_state(self, folder: RunFolder) -> str:
        """Return `running`."""
        return "running"

    def final_state(self, result: SessionResult) -> str | None:
        """Return `finished`, `interrupted` or `incomplete`."""
        if result.open_turns == 0:
            return "finished"
        return "interrupted" if result.reason == "interrupted" else "incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSpec:
    """Where the log of a session goes, and what it holds."""

    path: Path | None = None
    is_shown: bool = False
    """Whether it is printed on stderr."""
    has_bodies: bool = False
    """Whether it holds each request as sent."""

    @property
    def is_wanted(self) -> bool:
        """Whether there is a log at all."""
        return self.path is not None or self.is_shown


NO_LOG = LogSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """On how many workers a session runs, and where."""

    workers: int | None = None
    """None = one for each core of the cluster."""
    address: str | None = None
    """Of a Ray cluster to join; None = a private one on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """Everything decided before the first request of a session."""

    folder: RunFolder
    manifest: Manifest
    """Content of `run.json`."""
    targets: tuple[Target, ...]
    credentials: Credentials
    """Keys and proxies of all targets."""
    rules: RunRules
    work: Work = field(default_factory=ModelWork)
    resumed: bool = False
    salvage: bool = False
    retry_failed: frozenset[str] = frozenset()
    """Kinds of failed turns that are opened again."""
    reuse: RunFolder | None = None
    max_cost: Money | None = None
    """Cap on the whole run, earlier sessions included; so are the next two."""
    max_tokens: int | None = None
    max_requests: int | None = None
    progress: bool = True
    notes: bool = True
    """Print notes to stderr; responses to signals are printed in any case."""
    handle_signals: bool = True
    log: LogSpec = NO_LOG
    follow: bool = False
    """Print turns to stdout as they come."""
    cluster: ClusterSpec | None = None
    """None = this process alone."""
    on_status: Callable[[RunStatus], str | None] | None = None
    """Gets the status of the run several times a second; returns a note to print. It must not wait or raise."""
    on_start: Callable[[Runner], None] | None = None
    """Gets what stops the session, before its first request; called on the session's event loop."""
    on_turn: Callable[[], None] | None = None
    """Called on the event loop of the session after each turn that became durable; it must not wait or raise."""
    options: RunOptions | ResumeOptions | None = None
    """What `run` or `resume` was given, for the next command."""
    made_here: bool = True
    """False where the run folder was created elsewhere."""

    @property
    def has_caps(self) -> bool:
        """Whether the run has a cap on its cost, tokens or requests."""
        return (self.max_cost, self.max_tokens, self.max_requests) != (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResult:
    """How a session ended."""

    exit_code: ExitCode
    reason: str
    rows: int = 0
    """Turns, or questions to a judge, in the plan."""
    open_turns: int = 0
    """Rows without a result: still `pending`, or `error` (unless the dialogue no longer fits the model)."""
    elapsed_s: float = 0.0
    """From when its first request could be sent to the end of the session; what a deadline is measured by."""
    suspended: Mapping[str, str] = field(default_factory=dict)
    """Reason of the suspension, by target name."""
    unanswered: Mapping[str, str] = field(default_factory=dict)
    """Latest error of each target that gave no answer after it, by target name."""
    budget: str | None = None
    """Amount spent and cap, as text; None without a budget."""
    larger_budget: tuple[Cap, ...] = ()
    """Caps that let the run continue, in place of those that ended the session."""
    bugs: tuple[str, ...] = ()
    error: ConvbatchError | None = None
    """What stopped the session after requests may have been sent; None if nothing did."""
