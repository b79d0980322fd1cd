"""`convbatch` and `python -m convbatch`."""

import os
import signal


def main() -> None:
    """Entry point of the console script."""
    # Until there is somebody to answer it, Ctrl-C ends the program as it ends any other: without a traceback out of
    # whatever was being imported. What is ignored (a job in the background of a script) stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Tables are read from memory or one file at a time: eight threads of pyarrow's would only take 8 MB of stack each.
    os.environ.setdefault("ARROW_IO_THREADS", "1")
    from convbatch.cli.main import main as answer

    answer()


if __name__ == "__main__":
    main()
