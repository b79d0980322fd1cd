"""Variants: other wordings of every dialogue, from the config's `[variants.NAME]`.

What a variant does to a dialogue is `dialogue.Variant`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from convbatch.config.validators import GATEWAY_NAME, InvalidValue
from convbatch.dialogue import NO_VARIANT, Settings, Variant
from convbatch.paths import expand_home


def build_variant(
    name: str, own: Mapping[str, Any], settings: Settings, *, folder: Path, written: Collection[str]
) -> Iterator[Variant | tuple[str, InvalidValue]]:
    """Yield the variant built from validated values, or else its problems with their keys.

    Args:
        name: Its name.
        own: Validated values by key.
        settings: Its settings.
        folder: Where relative paths start.
        written: The keys of the table, valid or not.
    """
    problems = list(_problems(name, own, written))
    values = dict(own)
    if "system_file" in values:
        read = _prompt(folder / expand_home(values.pop("system_file")), given=own["system_file"], folder=folder)
        if isinstance(read, InvalidValue):
            problems.append(("system_file", read))
        else:
            values["system"] = read
    yield from problems
    if not problems:
        yield Variant(name=name, settings=settings, **values)


def _problems(name: str, own: Mapping[str, Any], written: Collection[str]) -> Iterator[tuple[str, InvalidValue]]:
    if name == NO_VARIANT:
        yield "", InvalidValue(f"{name!r} means the dialogues as they are", "give the variant another name")
    elif not GATEWAY_NAME.fullmatch(name):
        yield "", InvalidValue(f"{name!r} cannot be a variant's name", "use letters, digits, dots, - and _")
    if "system" in own and "system_file" in own:
        yield "system_file", InvalidValue("system and system_file are both set", "keep one of them")
    if not written:
        hint = 'write system_file = "prompts/FILE.md", or system, prefix, suffix, settings'
        yield "", InvalidValue(f"the variant {name!r} changes nothing", hint)


def _prompt(file: Path, *, given: str, folder: Path) -> str | InvalidValue:
    """Return the text of a file, without blank lines at its end."""
    if file.exists() and not file.is_file():
        return InvalidValue("system_file is not a file", "name a text file", found=given)
    try:
        text = file.read_bytes().decode("utf-8-sig").rstrip()
    except OSError as error:
        what = f"system_file cannot be read: {error.strerror or error}"
        return InvalidValue(what, f"the path is relative to {folder}/", found=given)
    except UnicodeDecodeError:
        return InvalidValue("system_file is not UTF-8 text", f"iconv -t UTF-8 {given} > NEW.md", found=given)
    if not text:
        return InvalidValue("system_file is blank", 'to remove the system text, write system = ""', found=given)
    return text
