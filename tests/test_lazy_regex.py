"""Expressions that are compiled when they are first used."""

from __future__ import annotations

import gc
import importlib
import pkgutil
import re

import pytest

import convbatch
from convbatch.lazy_regex import lazy_regex


def test_every_expression_of_the_package_compiles() -> None:
    for module in pkgutil.walk_packages(convbatch.__path__, "convbatch."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    lazy = [each for each in gc.get_objects() if type(each) is type(lazy_regex(""))]
    assert len(lazy) > 100
    for each in lazy:
        re.compile(each.pattern, each.flags)


def test_it_does_what_a_compiled_one_does() -> None:
    lazy, compiled = lazy_regex(r"(?P<word>[a-z]+)-(\d)", re.IGNORECASE), re.compile(r"(?P<word>[a-z]+)-(\d)", re.I)
    text = "Ab-1, cd-2"
    assert [found.groupdict() for found in lazy.finditer(text)] == [{"word": "Ab"}, {"word": "cd"}]
    assert lazy.sub(r"\2", text) == compiled.sub(r"\2", text) == "1, 2"
    assert (lazy.pattern, lazy.flags, lazy.groups) == (compiled.pattern, compiled.flags, compiled.groups)


def test_a_mistake_is_found_at_the_first_use() -> None:
    broken = lazy_regex("(")
    with pytest.raises(re.error, match="missing \\)"):
        broken.search("text")
