"""Media in requests: the same bodies as the providers' own SDKs make, and what a wire does not take."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from typing import Any

import pytest

from convbatch.dialogue import Message, Part, PartKind, text_part
from convbatch.media import DETAILS
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.media_limits import WIRE_MEDIA, media_problem, request_problem, wires_for
from convbatch.protocols.wire import Ask, CannotCarry, Endpoint
from tests.support.made_media import MP4, PDF, png, wav

CONTENT: dict[PartKind, tuple[str, bytes]] = {
    "image": ("image/png", png()), "audio": ("audio/wav", wav()), "video": ("video/mp4", MP4),
    "document": ("application/pdf", PDF),
}  # fmt: skip
URL = "https://example.org/cat.png"


def inline(kind: PartKind) -> Part:
    mime_type, content = CONTENT[kind]
    return Part(kind=kind, path="media/0123456789abcdef.x", data=encoded(content), mime_type=mime_type)


def data_url(kind: PartKind) -> str:
    mime_type, content = CONTENT[kind]
    return f"data:{mime_type};base64,{encoded(content)}"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def address(detail: str | None = None) -> Part:
    return Part(kind="image", uri=URL, mime_type="image/png", detail=detail)


def ours(wire: str, *parts: Part) -> Any:
    message = Message(role="user", parts=(text_part("Look:"), *parts))
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1")
    body = PROTOCOLS[wire].build_request(Ask(model="m", messages=(message,)), endpoint).json
    return next(body[name] for name in ("contents", "messages", "input") if name in body)


@contextmanager
def recorder() -> Generator[tuple[str, list[Any]]]:
    """Yield a URL and the bodies that were sent to it; every request is refused."""
    bodies: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(400)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None: ...  # the name in the base class

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def plain(value: Any) -> Any:
    """Return a body in one spelling: keys without underscores, base64 in the standard alphabet, no null values."""
    if isinstance(value, dict):
        return {
            key.replace("_", "").lower(): text.translate(str.maketrans("-_", "+/")) if key == "data" else plain(text)
            for key, text in value.items()
            if text is not None
        }
    return [plain(one) for one in value] if isinstance(value, list) else value


def by_google(url: str) -> None:
    genai, types = import_module("google.genai"), import_module("google.genai.types")
    client = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url))
    parts = [types.Part.from_bytes(data=content, mime_type=name) for name, content in CONTENT.values()]
    parts = [types.Part.from_text(text="Look:"), *parts, types.Part.from_uri(file_uri=URL, mime_type="image/png")]
    resolution = types.PartMediaResolution(level=types.PartMediaResolutionLevel.MEDIA_RESOLUTION_LOW)
    parts.append(types.Part(file_data=types.FileData(file_uri=URL, mime_type="image/png"), media_resolution=resolution))
    with suppress(Exception):
        client.models.generate_content(model="m", contents=[types.Content(role="user", parts=parts)])
    client.close()


def by_openai(url: str) -> None:
    openai = import_module("openai")
    content = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": data_url("image")}},
        {"type": "input_audio", "input_audio": {"data": encoded(wav()), "format": "wav"}},
        {"type": "file", "file": {"filename": "0123456789ab.pdf", "file_data": data_url("document")}},
        {"type": "image_url", "image_url": {"url": URL}},
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
    ]  # fmt: skip
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client, suppress(openai.BadRequestError):
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}])


def by_responses(url: str) -> None:
    openai = import_module("openai")
    content = [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": data_url("image"), "detail": "auto"},
        {"type": "input_audio", "input_audio": {"data": encoded(wav()), "format": "wav"}},
        {"type": "input_file", "filename": "0123456789ab.pdf", "file_data": data_url("document")},
        {"type": "input_image", "image_url": URL, "detail": "auto"},
        {"type": "input_image", "image_url": URL, "detail": "low"},
    ]  # fmt: skip
    with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client, suppress(openai.BadRequestError):
        client.responses.create(model="m", input=[{"role": "user", "content": content}])


def by_anthropic(url: str) -> None:
    anthropic = import_module("anthropic")
    content = [
        {"type": "text", "text": "Look:"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(png())}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": encoded(PDF)}},
        {"type": "image", "source": {"type": "url", "url": URL}},
    ]
    client = anthropic.Anthropic(api_key="k", base_url=url, max_retries=0)
    with client, suppress(anthropic.BadRequestError):
        client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": content}])


SDKS: dict[str, tuple[Any, tuple[PartKind, ...]]] = {
    "gemini": (by_google, ("image", "audio", "video", "document")),
    "openai": (by_openai, ("image", "audio", "document")),
    "responses": (by_responses, ("image", "audio", "document")),
    "anthropic": (by_anthropic, ("image", "document")),
}


@pytest.mark.slow
@pytest.mark.parametrize("wire", SDKS)
def test_the_sdk_of_a_provider_sends_the_same_media(wire: str) -> None:
    send, kinds = SDKS[wire]
    with recorder() as (url, bodies):
        send(url)
    body = bodies[0]
    theirs = next(body[name] for name in ("contents", "messages", "input") if name in body)
    looked_at = [address("low")] if WIRE_MEDIA[wire].details else []
    assert plain(ours(wire, *map(inline, kinds), address(), *looked_at)) == plain(theirs)


@pytest.mark.parametrize("wire", WIRE_MEDIA)
def test_a_kind_that_a_wire_has_no_place_for_is_refused_when_a_request_is_built(wire: str) -> None:
    for kind in CONTENT:
        if kind in WIRE_MEDIA[wire].types:
            assert "Look:" in json.dumps(ours(wire, inline(kind)))
        else:
            with pytest.raises(CannotCarry, match=f"takes no {kind}"):
                ours(wire, inline(kind))


@pytest.mark.parametrize("wire", WIRE_MEDIA)
def test_every_detail_is_sent_in_the_words_of_the_wire_or_refused(wire: str) -> None:
    details = WIRE_MEDIA[wire].details
    for detail in DETAILS:
        if detail in details or detail == "auto":
            word = f'"{details.get(detail, detail)}"'
            assert (word in json.dumps(ours(wire, address(detail)))) == (detail in details)
        else:
            with pytest.raises(CannotCarry, match="takes no detail"):
                ours(wire, address(detail))
    assert wires_for("image", "image/png", 9, None, detail="medium") == ["gemini"]
    assert wires_for("image", "image/png", 9, None, detail="low", in_result=True) == ["responses"]


def test_refusals_name_type_size_and_address() -> None:
    assert media_problem("openai", "document", "text/plain", 9, None) is not None
    assert "at most 5.0 MB" in (media_problem("anthropic", "image", "image/png", 5_000_001, None) or "")
    assert "addresses that begin with https://" in (media_problem("openai", "image", "image/*", None, "gs://b/c") or "")
    assert media_problem("gemini", "video", "video/*", None, "gs://b/c") is None
    assert "only its content" in (media_problem("openai", "audio", "audio/wav", None, URL) or "")
    assert wires_for("video", "video/mp4", 9, None) == ["gemini"]
    assert wires_for("audio", "audio/mpeg", 9, None) == ["gemini", "openai", "responses"]
    assert request_problem("anthropic", [24_000_000]) is None
    assert "at most 32 MB" in (request_problem("anthropic", [12_000_000, 12_000_001]) or "")
