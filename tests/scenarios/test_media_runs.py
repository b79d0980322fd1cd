"""Runs with media, in and out, over the wires that carry them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import convbatch as cb
from convbatch.cli.main import app
from convbatch.dialogue import Message, Part
from convbatch.errors import ConvbatchError, InputError, SetupError
from convbatch.journal.media_store import MediaStore, SharedBody
from convbatch.journal.records import decode_line, encode_line
from convbatch.protocols import PROTOCOLS
from convbatch.session.options import ResumeOptions
from convbatch.session.prepare import prepare_resume
from convbatch.simulator.provider import Provider
from convbatch.simulator.server import Server
from tests.conftest import config_for
from tests.support.made_media import MP4, PDF, png, wav

Simulator = Callable[[Provider], Server]
WIRES = tuple(PROTOCOLS)


def run(folder: Path, server: Server, wires: tuple[str, ...], *turns: Any, **options: Any) -> Any:
    config = folder / "convbatch.toml"
    config.write_text(config_for(server.url, wires=wires))
    dataset = folder / "d.jsonl"
    dataset.write_text(json.dumps({"id": "d", "turns": [{"user": user} for user in turns]}))
    out = options.pop("out", folder / "out")
    return cb.run(dataset, models=[f"sim-good@at-{wire}" for wire in wires], config=config, out=out, **options)


def seen(kind: str, name: str, content: bytes) -> str:
    return f"<{kind} {name} {len(content)} bytes {hashlib.sha256(content).hexdigest()[:12]}>"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, content in {"cat.jpg": png(), "a.wav": wav(), "a.pdf": PDF, "a.mp4": MP4, "a.txt": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_every_wire_delivers_the_bytes_of_a_file_as_what_they_are(home: Path, simulator: Simulator) -> None:
    server = simulator(Provider())
    first = [{"text": "What?"}, {"image": "cat.jpg"}, {"document": "a.pdf"}]
    turns = run(home, server, WIRES, first, [{"image": "cat.jpg"}]).turns
    assert set(turns["status"]) == {"ok"}
    said = turns.groupby("turn")["reply"].apply(list)
    assert all(seen("image", "png", png()) in reply for replies in said for reply in replies)
    assert all(seen("document", "pdf", PDF) in reply for reply in said[1])
    assert len(list((home / "out" / "media").iterdir())) == 2
    stored = b"".join(path.read_bytes() for path in (home / "out" / "journal").iterdir())
    assert b"iVBOR" not in stored, "content is in the journal only where a provider sends it"


def test_kinds_that_a_wire_does_not_carry_are_refused_all_at_once(home: Path, simulator: Simulator) -> None:
    provider = Provider()
    turns = ([{"audio": "a.wav"}], [{"video": "a.mp4"}, {"document": "a.txt"}])
    with pytest.raises(InputError) as caught:
        run(home, simulator(provider), WIRES, *turns)
    said = [str(problem).split(":1: ")[1].split(" takes")[0] for problem in caught.value.problems]
    assert said == [
        "turn 1: the anthropic protocol", "turn 2: the openai protocol", "turn 2: the responses protocol",
        "turn 2: the anthropic protocol", "turn 2: the openai protocol",
    ]  # fmt: skip
    assert all("taken by the protocols gemini" in str(problem) for problem in caught.value.problems)
    assert not provider.ledger.entries
    assert set(run(home, simulator(Provider()), ("gemini",), *turns).turns["status"]) == {"ok"}


def test_a_model_looks_at_a_picture_in_the_detail_of_its_part(home: Path, simulator: Simulator) -> None:
    provider = Provider()
    server, wires = simulator(provider), ("gemini", "openai", "responses")
    turns = run(home, server, wires, [{"image": "cat.jpg", "detail": "high"}, {"image": "cat.jpg"}]).turns
    plain = seen("image", "png", png())
    assert all(f"{plain[:-1]} high>{plain}" in reply for reply in turns["reply"])
    again = run(home, server, wires, [{"image": "cat.jpg", "detail": "low"}, {"image": "cat.jpg"}],
                out=home / "again", reuse=home / "out").turns  # fmt: skip
    assert again["reused_from"].isna().all(), "another detail is another question"
    calls = len(provider.ledger.entries)
    with pytest.raises(InputError, match="turn 1: the anthropic protocol takes no detail of an image") as caught:
        run(home, server, (*wires, "anthropic"), [{"image": "cat.jpg", "detail": "low"}], out=home / "none")
    assert 'taken by the protocols gemini, openai, responses; remove "detail", leave' in str(caught.value)
    assert len(provider.ledger.entries) == calls


def test_a_model_sees_the_pictures_in_results_of_tools(home: Path, simulator: Simulator) -> None:
    wires = ("gemini", "responses", "anthropic")
    config, dataset = home / "convbatch.toml", home / "d.jsonl"
    config.write_text(config_for(simulator(Provider()).url, wires=wires))
    result = {"result": {"n": 1}, "media": [{"image": "cat.jpg"}, {"document": "a.pdf"}]}
    line = {"id": "d", "turns": [{"user": "call f {}"}], "tools": [{"name": "f"}], "tool_results": {"f": result}}
    dataset.write_text(json.dumps(line))
    turns = cb.run(dataset, models=[f"sim-good@at-{wire}" for wire in wires], config=config, out=home / "out").turns
    shown = seen("image", "png", png()) + seen("document", "pdf", PDF)
    assert [shown in reply for reply in turns["reply"]] == [True] * 3, turns["reply"].tolist()


def test_a_run_folder_is_enough_to_resume_and_a_lost_or_changed_file_is_refused(
    home: Path, simulator: Simulator
) -> None:
    run(home, simulator(Provider()), ("gemini",), [{"image": "cat.jpg"}])
    for name in ("cat.jpg", "d.jsonl"):
        (home / name).unlink()
    prepare_resume(ResumeOptions(run=str(home / "out")))
    [stored] = (home / "out" / "media").iterdir()
    stored.write_bytes(png(9, 9))
    with pytest.raises(SetupError, match="not the content that the run began with"):
        prepare_resume(ResumeOptions(run=str(home / "out")))
    stored.unlink()
    with pytest.raises(SetupError, match="media file of this run cannot be read"):
        prepare_resume(ResumeOptions(run=str(home / "out")))


@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "streamed"])
def test_a_picture_is_edited_over_three_turns_with_its_signatures(
    home: Path, simulator: Simulator, stream: bool
) -> None:
    wires, server = ("gemini", "responses"), simulator(Provider())
    turns = run(home, server, wires, "draw a cat", "draw it red", "draw only its tail", stream=stream).turns
    assert set(turns["status"]) == {"ok"}
    assert turns[turns["turn"] == 3]["reply"].isna().all()
    files = [json.loads(cell) for cell in turns["media"]]
    assert [len(paths) for paths in files] == [1] * 6, "the draft of a thought is no answer"
    for [path] in files:
        content = (home / "out" / path).read_bytes()
        assert path == f"media/{hashlib.sha256(content).hexdigest()}.png"
        assert content.startswith(b"\x89PNG")
    of_gemini = turns[turns["gateway"] == "at-gemini"]
    assert (of_gemini["output_tokens"] >= 1290).all()
    # The files are made from the journal again, here and where replies are reused.
    shutil.rmtree(home / "out" / "media")
    again = run(home, server, wires, "draw a cat", "draw it red", "draw only its tail", "and?",
                stream=stream, reuse=home / "out", out=home / "again").turns  # fmt: skip
    assert set(again["status"]) == {"ok"}
    assert again["reused_from"].notna().sum() == 6
    assert all((home / "again" / path).exists() for paths in files for path in paths)


@pytest.mark.parametrize("key", ["", 'replay = "stored"'], ids=["whole history", "stored"])
def test_every_process_that_reads_a_reply_names_the_same_files(home: Path, simulator: Simulator, key: str) -> None:
    server = simulator(Provider())
    config = home / "convbatch.toml"
    config.write_text(f"{config_for(server.url, wires=('responses',))}\n{key}\n")
    (home / "d.jsonl").write_text(json.dumps({"id": "d", "turns": [{"user": "draw a cat"}, {"user": "draw it red"}]}))

    def media(name: str, **options: Any) -> list[str]:
        made = cb.run(home / "d.jsonl", models=["sim-good@at-responses"], config=config, out=home / name, **options)
        return made.turns["media"].tolist()

    first = media("out")
    assert len({path for cell in first for path in json.loads(cell)}) == 2
    assert media("again", reuse=home / "out") == first
    shutil.rmtree(home / "again" / "media")
    assert CliRunner().invoke(app, ["resume", str(home / "again"), "--no-progress"]).exit_code == 0
    assert len(list((home / "again" / "media").iterdir())) == 2, "a finished run gets its files back"
    forget_replies(home / "out" / "journal" / "000001.jsonl")
    shutil.rmtree(home / "out" / "media")
    done = CliRunner().invoke(app, ["resume", str(home / "out"), "--no-progress"])
    assert done.exit_code == 0, done.output
    turns = cb.load(home / "out").turns
    assert turns["wire_note"].str.contains("read again from the journal").all()
    assert turns["media"].tolist() == first
    assert all((home / "out" / path).exists() for cell in first for path in json.loads(cell))


def forget_replies(journal: Path) -> None:
    """Change a journal as if its version had found no reply in the answers."""
    lines: list[bytes] = []
    for line in journal.read_bytes().splitlines():
        record = decode_line(line)
        record.pop("crc")
        if record["kind"] == "outcome":
            del record["reply"]
            record |= {"class": "ambiguous", "error": {"kind": "bad_response", "message": "no reply"}}
        lines.append(encode_line(record.pop("seq"), record.pop("at"), record))
    journal.write_bytes(b"".join(lines))


def test_bodies_in_flight_share_the_content_and_the_cache_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    paths: list[str] = []
    for content in (png(), wav(3000), PDF):
        name = f"media/{hashlib.sha256(content).hexdigest()}"
        paths.append(f"{name}.{'png' if content == png() else 'wav' if content != PDF else 'pdf'}")
        (tmp_path / paths[-1]).write_bytes(content)
    store = MediaStore(tmp_path, most_cached=5000)

    def body(path: str) -> SharedBody:
        [message] = store.filled([Message(role="user", parts=(Part(kind="image", path=path),))])
        made = store.body(f'{{"data":"{message.parts[0].data}"}}'.encode())
        assert isinstance(made, SharedBody)
        return made

    first, second = body(paths[0]), body(paths[0])
    assert first.pieces[1] is second.pieces[1]
    assert len(first) == len(bytes(first)) == len(first.pieces[1]) + len('{"data":""}')
    assert body(paths[1]).pieces[1] is body(paths[1]).pieces[1], "the last content is always kept"
    assert body(paths[0]).pieces[1] is not first.pieces[1]
    assert store.body(b'{"data":"media/x.png"}') == b'{"data":"media/x.png"}'


@pytest.mark.slow
def test_a_cap_on_the_cost_counts_media_of_unknown_size_as_the_most_they_can_be(
    home: Path, simulator: Simulator
) -> None:
    server = simulator(Provider())
    config = home / "convbatch.toml"
    config.write_text(
        config_for(server.url, wires=("gemini",))
        + '\n[prices.at-gemini]\nsim-good = { currency = "USD", input = 1, output = 1 }\n'
    )

    def capped(part: dict[str, Any], cap: str) -> Any:
        dataset = home / "d.jsonl"
        dataset.write_text(json.dumps({"id": "d", "turns": [{"user": [{"text": "u"}, part]}]}))
        out = home / f"out-{cap}-{len(part)}"
        return cb.run(
            dataset, models=["sim-good@at-gemini"], config=config, out=out, max_output_tokens=100, max_cost=cap
        )

    assert capped({"image": "cat.jpg"}, "0.06USD").turns["status"].tolist() == ["ok"]
    assert capped({"image": "cat.jpg"}, "0.04USD").turns["status"].tolist() == ["pending"]
    address = {"uri": "https://a.b/c.mp4", "mime_type": "video/mp4"}
    assert capped(address, "1.9USD").turns["status"].tolist() == ["pending"]
    assert capped(address, "2.1USD").turns["status"].tolist() == ["ok"]


@pytest.mark.slow
def test_a_judge_sees_the_pictures_of_the_user_and_of_the_reply(home: Path, simulator: Simulator) -> None:
    provider = Provider()
    config, dataset = home / "convbatch.toml", home / "d.jsonl"
    config.write_text(config_for(simulator(provider).url, wires=("gemini", "responses")))
    checks = [{"llm_rubric": 'says "draw"'}, {"image": {"exactly": 1, "width": 16, "mime_type": "image/png"}}]
    turn = {"user": [{"text": "draw this"}, {"image": "cat.jpg"}], "checks": checks}
    dataset.write_text(json.dumps({"id": "d", "turns": [turn]}))
    done = cb.run(
        dataset, models=["sim-good@at-gemini"], config=config, out=home / "out", judge="sim-judge@at-responses"
    )
    assert done.verdicts["passed"].tolist() == [True, True], done.verdicts["reason"].tolist()
    [drawn] = json.loads(done.turns["media"].tolist()[0])
    asked = [entry for entry in provider.ledger.entries if entry.model == "sim-judge"]
    question = (asked[-1].history or [])[-1][1]
    assert question.endswith(seen("image", "png", png()) + seen("image", "png", (home / "out" / drawn).read_bytes()))


def test_errors_of_media_leave_no_run_folder(home: Path, simulator: Simulator) -> None:
    with pytest.raises(ConvbatchError):
        run(home, simulator(Provider()), ("gemini",), [{"image": "a.wav"}])
    assert not (home / "out").exists()
