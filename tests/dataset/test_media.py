"""Media in datasets: the type is found by content, files are read safely, content is kept once."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.dataset.media_files import media_issues, media_of
from convbatch.dataset.selection import Selection, convert
from convbatch.dataset.snapshot import read_copy, write_copy
from convbatch.dialogue import Dialogue
from convbatch.errors import InputError
from convbatch.media import LARGEST, MEDIA_TYPES, media_type_of, pixel_size, type_named, type_of_path
from convbatch.protocols.media_limits import WIRE_MEDIA
from tests.support.made_media import GIF, JPEG, MP4, PDF, png, wav

MANY = b"\0" * 64
CONTENTS = {
    "png": png(), "jpg": JPEG, "gif": GIF, "webp": b"RIFF\0\0\0\0WEBPVP8 ", "heic": b"\0\0\0\x18ftypheic",
    "tiff": b"II*\0" + MANY, "bmp": b"BM\x10\0\0\0\0\0\0\0" + MANY, "svg": b"<?xml version='1.0'?>\n<svg width='1'/>",
    "wav": wav(), "mp3": b"ID3\4" + MANY, "aac": b"\xff\xf1" + MANY, "flac": b"fLaC" + MANY, "ogg": b"OggS" + MANY,
    "aiff": b"FORM\0\0\0\0AIFF", "mp4": MP4, "mov": b"\0\0\0\x14ftypqt  ", "webm": b"\x1aE\xdf\xa3\1\2\x42\x82webm",
    "avi": b"RIFF\0\0\0\0AVI LIST", "mpg": b"\0\0\1\xba" + MANY, "pdf": PDF, "txt": "Grüße".encode(),
    "rtf": b"{\\rtf1}", "docx": b"PK\3\4word/document.xml" + MANY,
}  # fmt: skip


def test_the_type_of_a_content_is_found_by_its_first_bytes_whatever_its_name() -> None:
    found = {extension: media_type_of(content, "name.bin") for extension, content in CONTENTS.items()}
    assert {extension: kind.extension for extension, kind in found.items() if kind} == {name: name for name in CONTENTS}
    assert media_type_of(b"\x01\x02\x03\xff\xfe") is None
    sound = media_type_of(MP4, kind="audio")
    assert sound is not None
    assert sound.mime_type == "audio/mp4"
    table = media_type_of(b"a,b\n1,2\n", "table.csv")
    assert table is not None
    assert table.mime_type == "text/csv"


def test_each_extension_and_mime_type_names_one_type() -> None:
    assert all(type_of_path(f"media/x.{one.extension}") == one == type_named(one.mime_type) for one in MEDIA_TYPES)
    assert max(wire.max_request for wire in WIRE_MEDIA.values()) * 3 // 4 == LARGEST
    known = {one.mime_type for one in MEDIA_TYPES}
    assert {name for wire in WIRE_MEDIA.values() for names in wire.types.values() for name in names} <= known


@given(st.integers(1, 65_000), st.integers(1, 65_000))
def test_the_size_of_a_picture_is_read_from_its_header(width: int, height: int) -> None:
    assert pixel_size(png()[:16] + width.to_bytes(4) + height.to_bytes(4)) == (width, height)
    assert pixel_size(b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little")) == (width, height)
    assert pixel_size(JPEG) == (7, 5)


@given(st.binary(max_size=64))
def test_no_content_breaks_the_header_parser(tail: bytes) -> None:
    for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X", b"GIF8", b"BM"):
        pixel_size(start + tail)
        media_type_of(start + tail)


def dialogue(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "d", "turns": [{"user": list(parts)}], **more}


BAD = {
    "none.png": "file does not exist",
    "../out.png": "path leaves the dataset's folder",
    "/etc/hostname": "path leaves the dataset's folder",
    "https://a.b/c.png": "is a URL",
    "data:image/png;base64,AA": "is a URL",
    "link.png": "link out of the dataset's folder",
    "folder/link/secret.png": "link out of the dataset's folder",
    "loop.png": "file does not exist",
    "pipe.png": "not a regular file",
    "folder": "not a regular file",
    "empty.png": "is empty",
    "sound.png": "holds audio (audio/wav)",
    "odd.png": "content of no known type",
    "page.png": "holds document (text/html)",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "folder").mkdir(parents=True)
    for name, content in {
        "red.png": png(), "wrong.jpg": png(4, 4), "empty.png": b"", "sound.png": wav(), "odd.png": b"\1\2\xff\xfe",
        "page.png": b"<html><body>404", "folder/same.png": png(),
    }.items():  # fmt: skip
        (home / name).write_bytes(content)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(png())
    (home / "link.png").symlink_to(tmp_path / "outside" / "secret.png")
    (home / "folder" / "link").symlink_to(tmp_path / "outside")
    (home / "inside.png").symlink_to(home / "red.png")
    (home / "loop.png").symlink_to(home / "loop.png")
    os.mkfifo(home / "pipe.png")
    return home


def test_media_that_cannot_be_used_are_named_with_their_turn(home: Path) -> None:
    parts = [{"image": name} for name in BAD]
    issues = media_issues(Dialogue.from_plain(dialogue(*parts)), home)
    said = dict(zip(BAD, issues, strict=True))
    html = "holds document (text/plain)"
    wanted = {**BAD, "page.png": html}
    assert {name: wanted[name] for name, issue in said.items() if wanted[name] not in issue.what} == {}
    assert {issue.field for issue in issues} == {"turn 1"}
    assert all(issue.hint and issue.found for issue in issues)


def test_what_is_too_large_for_any_wire_is_refused_without_reading_it(home: Path) -> None:
    with (home / "huge.mp4").open("wb") as file:
        file.write(MP4)
        file.truncate(LARGEST + 1)
    [issue] = media_issues(Dialogue.from_plain(dialogue({"video": "huge.mp4"})), home)
    assert "larger than any request may be" in issue.what


def copy(home: Path, *lines: dict[str, Any]) -> tuple[Path, list[Dialogue]]:
    source, out = home / "d.jsonl", home / "run" / "copy.gz"
    out.parent.mkdir()
    source.write_text("\n".join(json.dumps({**line, "id": str(at)}) for at, line in enumerate(lines)))
    write_copy([source], Selection(), out, "live")
    return out, [one for _, one in read_copy(out)]


def test_equal_contents_are_kept_once_under_their_digest(home: Path) -> None:
    inline = {"data": base64.b64encode(png()).decode(), "mime_type": "image/jpeg"}
    names = [{"image": name} for name in ("red.png", "folder/same.png", "inside.png")]
    out, read = copy(home, *[dialogue(part) for part in (*names, inline)])
    stored = f"media/{hashlib.sha256(png()).hexdigest()}.png"
    assert {(part.kind, part.path, part.size) for one in read for _, part, _ in media_of(one)} == {
        ("image", stored, len(png()))
    }
    assert [path.name for path in (out.parent / "media").iterdir()] == [Path(stored).name]
    assert (out.parent / stored).read_bytes() == png()
    assert (out.parent / stored).stat().st_mode & 0o777 == 0o600
    lines = gzip.decompress(out.read_bytes()).splitlines()
    assert len({line.replace(b'"%d"' % at, b"") for at, line in enumerate(lines)}) == 1, "the same bytes, however given"


def test_media_in_results_of_tools_are_kept_as_well(home: Path) -> None:
    media = [{"image": "red.png"}]
    line = dialogue(
        {"text": "u"}, tools=[{"name": "f"}, {"name": "g"}],
        tool_results={"f": [{"result": 1, "media": media}, 2], "g": {"media": media, "kept": "a plain value"}},
    )  # fmt: skip
    _, [read] = copy(home, line)
    stored = f"media/{hashlib.sha256(png()).hexdigest()}.png"
    assert read.tool_results == {"f": [{"result": 1, "media": [{"image": stored}]}, 2], "g": line["tool_results"]["g"]}


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"image": "red.png", "detail": "hihg"}, '"detail" is not one of auto, low'),
        ({"document": "red.png", "detail": "high"}, '"detail" of a part that is no image'),
        ({"data": "AA==", "mime_type": "audio/wav", "detail": "high"}, '"detail" of a part that is no image'),
    ],
)
@pytest.mark.parametrize("in_result", [False, True])
def test_only_an_image_has_a_detail(home: Path, part: dict[str, Any], what: str, in_result: bool) -> None:
    tools = {"tools": [{"name": "f"}], "tool_results": {"f": {"result": 1, "media": [part]}}}
    with pytest.raises(InputError, match=what):
        copy(home, dialogue({"text": "u"}, **tools) if in_result else dialogue(part))


def test_a_run_folder_is_a_dataset_of_its_own(home: Path) -> None:
    out, first = copy(home, dialogue({"image": "red.png"}))
    again = out.parent / "again" / "copy.gz"
    again.parent.mkdir()
    write_copy([out], Selection(), again, "live")
    assert [one for _, one in read_copy(again)] == first


PNG64 = base64.b64encode(png()).decode()
RED, WRONG, DATA = {"image": "red.png"}, {"image": "wrong.jpg"}, {"data": PNG64, "mime_type": "image/png"}
ADDRESS = {"uri": "https://a.b/c.JPEG?x=1", "mime_type": "image/jpeg"}


def say(*parts: Any, **beside: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], **beside}


FOREIGN: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "openai address": (say({"type": "image_url", "image_url": {"url": ADDRESS["uri"]}}), [[ADDRESS]]),
    "openai data": (say({"type": "image_url", "image_url": f"data:image/png;base64,{PNG64}"}), [[DATA]]),
    "qwen": (say({"type": "image", "image": "red.png"}, {"type": "text", "text": "u"}), [[RED, {"text": "u"}]]),
    "anthropic address": (
        say({"type": "document", "source": {"type": "url", "url": "https://a.b/c"}}),
        [[{"uri": "https://a.b/c", "mime_type": "application/pdf"}]],
    ),
    "anthropic text": (
        {"params": say({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "hi"}})},
        [[{"data": "aGk=", "mime_type": "text/plain"}]],
    ),
    "anthropic data": (
        {"params": say({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG64}})},
        [[DATA]],
    ),
    "gemini address": (
        {"contents": [{"parts": [{"fileData": {"mimeType": "video/mp4", "fileUri": "https://youtu.be/x"}}]}]},
        [[{"uri": "https://youtu.be/x", "mime_type": "video/mp4"}]],
    ),
    "gemini sdk": (
        {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": PNG64.replace("+", "-")}}]}]},
        [[DATA]],
    ),
    "responses": (
        {"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": ADDRESS["uri"]}]}]},
        [[ADDRESS]],
    ),
    "responses detail": (
        {"model": "m", "input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": ADDRESS["uri"], "detail": "low"}]}]},
        [[{**ADDRESS, "detail": "low"}]],
    ),
    "openai detail": (
        say({"type": "image_url", "image_url": {"url": ADDRESS["uri"], "detail": "original"}}),
        [[{**ADDRESS, "detail": "original"}]],
    ),
    "gemini detail": (
        {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG64},
                                  "media_resolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}}]}]},
        [[{**DATA, "detail": "ultra_high"}]],
    ),
    "llava": (
        {"image": "red.png", "conversations": [
            {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "a"},
            {"from": "human", "value": "u"},
        ]},
        [[RED, {"text": "What?"}], "u"],
    ),
    "llama-factory": (
        {"images": ["red.png", "wrong.jpg"], "messages": [
            {"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c <image>"},
        ]},
        [[RED, {"text": "a"}], [{"text": "c "}, WRONG]],
    ),
    "alpaca": ({"instruction": "u", "input": "", "output": "a", "images": ["red.png"]}, [[RED, {"text": "u"}]]),
    "hugging face": (say({"type": "text", "text": "u"}, images=[{"bytes": PNG64}]), [[DATA, {"text": "u"}]]),
    "ollama": ({"messages": [{"role": "user", "content": "u", "images": [PNG64]}]}, [[DATA, {"text": "u"}]]),
}  # fmt: skip


@pytest.mark.parametrize(("line", "users"), FOREIGN.values(), ids=FOREIGN)
def test_media_of_other_formats_are_imported(home: Path, line: dict[str, Any], users: list[Any]) -> None:
    source, out = home / "foreign.jsonl", home / "o.jsonl"
    source.write_text(json.dumps(line))
    convert(source, out)
    assert [turn["user"] for turn in json.loads(out.read_text())["turns"]] == users


def test_a_file_that_changes_after_the_check_is_refused(home: Path) -> None:
    source = home / "d.jsonl"

    def swap(*_: int) -> None:
        (home / "red.png").unlink(missing_ok=True)
        (home / "red.png").symlink_to(home.parent / "outside" / "secret.png")

    lines = [json.dumps({**dialogue({"image": "red.png"}), "id": str(at)}) for at in range(257)]
    source.write_text("\n".join(lines))
    with pytest.raises(InputError, match="link out of the dataset's folder"):
        write_copy([source], Selection(), home / "c.gz", "live", on_progress=swap)
