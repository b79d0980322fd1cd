"""`convbatch convert`: dialogues of other formats, and logs of other tools, to the canonical format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convbatch.console.text import log_note
from convbatch.dataset.logs.convert import convert_logs, log_form
from convbatch.dataset.reader import count_of
from convbatch.dataset.selection import LOGS
from convbatch.dataset.selection import convert as convert_dataset
from convbatch.errors import InputError, SetupError, one_cause_once
from convbatch.exit_codes import ExitCode


def run_convert(
    sources: Sequence[Path],
    out: Path,
    *,
    from_format: str | None,
    redact: bool,
    partial: bool,
    reference: bool,
    reference_answers: Path | None,
) -> ExitCode:
    """Write the dialogues of files in the canonical format; print notes and how many they are.

    Returns:
        The exit code: 3 if problems were passed over.

    Raises:
        InputError: The files have problems; nothing is written.
        SetupError: `out` cannot be written, or the options do not fit the files.
    """
    form = log_form(sources, from_format) if from_format is None or from_format in LOGS else None
    if form is None:
        if partial:
            hint = "--partial is for logs, whose kind --from names; of a dataset every line is needed"
            raise SetupError(f"{sources[0]} is not recognised as a log", hint=hint)
        written = convert_dataset(
            sources,
            out,
            from_format=from_format,
            reference=reference,
            reference_answers=reference_answers,
            redact=redact,
            on_note=log_note,
        )
        log_note(f"{count_of(written, 'dialogue')} written to {out}")
        return ExitCode.OK
    if reference or reference_answers is not None:
        raise SetupError("--reference is for MT-Bench", hint=f"{sources[0]} is a log; leave the option out")
    converted = convert_logs(sources, out, form, redact=redact, partial=partial, on_note=log_note)
    if converted.problems:
        try:
            converted.problems.raise_any()
        except InputError as error:
            for problem in one_cause_once(error.problems):
                log_note(f"left out: {problem}")
    log_note(f"{count_of(converted.dialogues, 'dialogue')} written to {out}")
    return ExitCode.INCOMPLETE if converted.problems else ExitCode.OK
