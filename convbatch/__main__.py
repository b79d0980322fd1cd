"""`convbatch` and `python -m convbatch`."""

import signal


def main() -> None:
    """Entry point of the console script."""
    # Until there is somebody to answer it, Ctrl-C ends the program as it ends any other: without a traceback out of
    # whatever was being imported. What is ignored (a job in the background of a script) stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from convbatch.cli import main as answer

    answer()


if __name__ == "__main__":
    main()
