"""`python -m convbatch`."""

from convbatch.cli import main

if __name__ == "__main__":
    main()
