"""Entry point of `convbatch` and `python -m convbatch`."""

import gc
import os
import signal

OBJECTS_BETWEEN_COLLECTIONS = 150_000


def main() -> None:
    """Run the command line."""
    # During imports Ctrl-C ends the program without a traceback; `cli.main` installs the handlers of the program. A
    # signal that is ignored (a background job of a script) stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Imports create objects that stay; searching them for garbage would be a tenth of the time until the first request.
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS, 20, 20)
    # Pydantic would search the metadata of every installed package for plugins; no form here needs one.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Tables are read from memory or one file at a time: eight pyarrow threads would only take 8 MB of stack each.
    os.environ.setdefault("ARROW_IO_THREADS", "1")
    # OpenBLAS reserves memory for each core, and ends the process with exit code 1 if it gets none.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from convbatch.cli.main import main as run_command_line

    run_command_line()


if __name__ == "__main__":
    main()
