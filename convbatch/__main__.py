"""Entry point of `convbatch` and `python -m convbatch`."""

import os
import signal


def main() -> None:
    """Run the command line."""
    # During imports Ctrl-C ends the program without a traceback; `cli.main` installs the handlers of the program. A
    # signal that is ignored (a background job of a script) stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Tables are read from memory or one file at a time: eight pyarrow threads would only take 8 MB of stack each.
    os.environ.setdefault("ARROW_IO_THREADS", "1")
    # OpenBLAS reserves memory for each core, and ends the process with exit code 1 if it gets none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from convbatch.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
