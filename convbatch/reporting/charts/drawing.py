"""Vega-Lite specs and values → SVG that can stand in a page with a strict policy.

The specs are data files of this package, with `$name` where values go in. What the library draws is rebuilt from the
elements and attributes listed here; nothing else of it reaches a page.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple
from xml.etree import ElementTree

from convbatch.console.text import printable

HOW_TO_GET_CHARTS = "No chart: pip install 'convbatch[report]' draws them."
_VEGA_LITE = "5.21"
_SVG = "{http://www.w3.org/2000/svg}"
_KEPT: Mapping[str, frozenset[str]] = {
    "g": frozenset({"transform", "fill", "stroke", "opacity", "fill-opacity"}),
    "path": frozenset(
        {"transform", "d", "fill", "stroke", "stroke-width", "stroke-dasharray", "fill-opacity", "stroke-opacity"}
    ),
    "line": frozenset({"transform", "x2", "y2", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity"}),
    "text": frozenset({"transform", "fill", "text-anchor", "font-size", "font-weight"}),
}
"""What is kept of a drawing: elements, and their attributes."""
_ROOT = {
    "width": "100%",
    "class": "chart",
    "role": "img",
    "font-family": "sans-serif",
    "font-size": "12px",
    "fill": "none",
}
_VALUE = re.compile(r"[-+#.,() a-zA-Z0-9]*")
_DEFAULTS = {"stroke-width": "1", "opacity": "1", "font-size": "12px", "fill-opacity": "1", "text-anchor": "start",
             "transform": "translate(0,0)", "font-weight": "normal"}  # fmt: skip
_STRAIGHT = re.compile(r"M-?[\d.]+,-?[\d.]+(?:L-?[\d.]+,-?[\d.]+)+Z?")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}(?:e-?\d+)?")


class Chart(NamedTuple):
    """What is drawn: the name of a spec, and what goes into it."""

    spec: str
    settings: Mapping[str, Any]


def draw(chart: Chart, title: str) -> str | None:
    """Return a chart as an `<svg>` element; None without the library.

    Args:
        chart: Spec and values.
        title: What screen readers say of it; the numbers are in the figure's table.
    """
    try:
        import vl_convert  # 90 MB, and seconds to start: only for pages
    except ImportError:
        return None
    spec = fill_spec(read_spec(chart.spec), chart.settings)
    svg = vl_convert.vegalite_to_svg(
        {**spec, "config": read_spec("config")}, vl_version=_VEGA_LITE, allowed_base_urls=[]
    )
    return rebuild(svg, title)


@functools.cache
def _spec_text(name: str) -> str:
    return (files("convbatch.reporting.charts") / "specs" / f"{name}.json").read_text("utf-8")


def read_spec(name: str) -> Any:
    """Return a spec of this package."""
    return json.loads(_spec_text(name))


def fill_spec(part: Any, settings: Mapping[str, Any]) -> Any:
    """Return a part of a spec with the value of `name` in place of each `"$name"`.

    Raises:
        KeyError: A name has no value.
    """
    if isinstance(part, dict):
        return {key: fill_spec(value, settings) for key, value in part.items()}
    if isinstance(part, list):
        return [fill_spec(value, settings) for value in part]
    return settings[part[1:]] if isinstance(part, str) and part.startswith("$") else part


def label(text: str, columns: int) -> str:
    """Return a text as one line that is at most this wide; wide characters take two columns.

    A long one is cut in the middle: names of a run's targets often begin alike, and differ in the model or gateway.
    """
    line = printable(text if len(text) <= 4 * columns else text[: 2 * columns] + text[-2 * columns :])
    if sum(map(_width, line)) <= columns and len(text) <= 4 * columns:
        return line
    head = _fitting(line, columns - columns // 2 - 1)
    tail = _fitting(line[::-1], columns // 2)[::-1]
    return f"{head}…{tail}"


def _fitting(line: str, columns: int) -> str:
    """Return the beginning of a line that is at most this wide."""
    for place, char in enumerate(line):
        columns -= _width(char)
        if columns < 0:
            return line[:place]
    return line


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


# --- SVG -------------------------------------------------------------------------------------------------------------


def rebuild(svg: str, title: str) -> str:
    """Return a drawing made anew from the elements and attributes in `_KEPT`.

    Raises:
        ValueError: It has none of the size that every drawing has.
    """
    root = ElementTree.fromstring(svg)
    size = root.get("viewBox", "")
    if re.fullmatch(r"[\d. ]+", size) is None:
        raise ValueError("the drawing has no size")
    inner = "".join(part for child in root for part in _rebuilt(child))
    named = {"viewBox": size, "aria-label": title, **_ROOT}
    return _element("svg", named, inner)


def _rebuilt(node: ElementTree.Element) -> Iterator[str]:
    tag = node.tag.removeprefix(_SVG)
    kept = _KEPT.get(tag)
    if kept is None or node.get("display") == "none":
        return
    attributes = dict(_attributes(node, kept))
    if tag == "g":
        inner = "".join(part for child in node for part in _rebuilt(child))
        yield _element("g", attributes, inner) if inner and attributes else inner
    elif tag == "text":
        if node.text:
            yield _element("text", attributes, escape(printable(node.text)))
    elif "stroke" in attributes or attributes.get("fill", "none") != "none":
        yield _element(tag, attributes)


def _element(tag: str, attributes: Mapping[str, str], inner: str = "") -> str:
    named = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{named}>{inner}</{tag}>" if inner else f"<{tag}{named}/>"


def _attributes(node: ElementTree.Element, kept: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name, value in node.attrib.items():
        if name not in kept or _VALUE.fullmatch(value) is None or "url(" in value:
            continue
        rounded = _LONG_NUMBER.sub(_rounded, value)
        short = _without_needless_points(rounded) if name == "d" else rounded
        is_default = _DEFAULTS.get(name) == short or (name in ("fill", "stroke") and short in ("none", "transparent"))
        if not is_default:
            yield name, short


def _without_needless_points(path: str) -> str:
    """Return a path of straight lines without the points between two others on a level or upright line."""
    if _STRAIGHT.fullmatch(path) is None:
        return path
    points = [tuple(point.split(",")) for point in re.split("[ML]", path.removesuffix("Z"))[1:]]
    kept = points[:1]
    for place, point in enumerate(points[1:-1], 1):
        following = points[place + 1]
        if not any(kept[-1][axis] == point[axis] == following[axis] for axis in (0, 1)):
            kept.append(point)
    kept += points[1:][-1:]
    return "M" + "L".join(",".join(point) for point in kept) + ("Z" if path.endswith("Z") else "")


def _rounded(match: re.Match[str]) -> str:
    return f"{round(float(match[0]), 1) + 0.0:g}"
