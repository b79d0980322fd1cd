"""`convbatch schema`: the JSON Schema of a file, on stdout."""

from __future__ import annotations

import json

from convbatch.config.json_schema import json_schema
from convbatch.console.text import ignoring_broken_pipe
from convbatch.exit_codes import ExitCode


def schema_text(what: str) -> str:
    """Return the schema as the text that is printed, and published in docs/schema."""
    return json.dumps(json_schema(what), ensure_ascii=False, indent=2) + "\n"


def run_schema(what: str) -> ExitCode:
    """Print the schema of `dataset` or `config`."""
    with ignoring_broken_pipe():
        print(schema_text(what), end="")  # noqa: T201  # the command's output
    return ExitCode.OK
