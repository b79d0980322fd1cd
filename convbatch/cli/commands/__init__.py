"""Declarations of commands: parameters and one call; `cli/main.py` puts them into the command line.

No `from __future__ import annotations` here: Typer would evaluate the text of each annotation, twice.
"""
