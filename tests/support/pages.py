"""Report pages read without a browser: their elements, their policy and their data."""

from __future__ import annotations

import base64
import gzip
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import orjson

PACKED = re.compile(rb'id="packed-data">([A-Za-z0-9+/=]*)<')


def unpacked(page: bytes) -> bytes:
    """Return the JSON of a page; empty for another file."""
    found = PACKED.search(page)
    return b"" if found is None else gzip.decompress(base64.b64decode(found[1]))


@dataclass
class Page(HTMLParser):
    """The elements of a page, in order, and its text."""

    content: bytes
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: str = ""
    code: dict[str, str] = field(default_factory=dict)
    """The last script, and the style."""

    def __post_init__(self) -> None:
        super().__init__()
        self._last = ""
        self.feed(self.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._last = tag

    def handle_data(self, data: str) -> None:
        if self._last in ("script", "style"):
            self.code[self._last] = data
        else:
            self.text += data

    @property
    def policy(self) -> str:
        return next(a["content"] or "" for _, a in self.elements if a.get("http-equiv") == "Content-Security-Policy")

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """The elements with the names of their attributes; what charts draw depends on the length of names."""
        drawn = {"g", "path", "line", "text"}
        return [(tag, tuple(attributes)) for tag, attributes in self.elements if tag not in drawn]

    @property
    def links(self) -> list[str]:
        """The addresses of links, without those to the page's sections."""
        found = [attributes.get("href") or "" for tag, attributes in self.elements if tag == "a"]
        return [link for link in found if not link.startswith("#section-")]

    @property
    def packed(self) -> bytes:
        """The data, compressed."""
        found = PACKED.search(self.content)
        return b"" if found is None else base64.b64decode(found[1])

    @property
    def data(self) -> dict[str, Any]:
        return orjson.loads(unpacked(self.content))
