"""Hostile run folders from third parties: made to block a reader, to forge records, or to redirect a writer or a key.

They are refused with an explanation, and nothing outside of them is changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convbatch.config.gateways import target_from_manifest
from convbatch.dataset.snapshot import copy_digest
from convbatch.dialogue import MAX_REPEATS
from convbatch.errors import SetupError
from convbatch.journal.records import decode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.results.cache import write_turns
from convbatch.results.run import load
from convbatch.session.options import ResumeOptions
from convbatch.session.prepare import prepare_resume
from convbatch.session.trust import remember_folder
from tests.conftest import Command, write_dataset
from tests.scenarios.test_bad_folders import output_of
from tests.support.made_runs import MadeRun, dialogue

READERS = (("table", "run"), ("show", "run"), ("report", "run"), ("check", "run"), ("compare", "run", "run"))


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("CONVBATCH_"):
            monkeypatch.delenv(name)


@pytest.fixture
def folder() -> RunFolder:
    made = MadeRun(path=Path("run"), dialogues=[dialogue("d", "hello", "again")])
    made.replied(made.ident(0, 1))
    made.replied(made.ident(0, 2))
    folder = made.write()
    point_targets_to(folder, base_url="http://127.0.0.1:9")  # and the fields that `resume` needs
    write_turns(folder)
    return folder


TRAPS = (
    "dataset.jsonl.gz",
    "checks.jsonl.gz",
    "turns.parquet",
    "verdicts.parquet",
    "journal/000002.jsonl",
    "journal/lock",
)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", TRAPS)
def test_a_pipe_in_a_run_folder_blocks_no_command(name: str) -> None:
    Path("run", name).unlink(missing_ok=True)
    os.mkfifo(Path("run", name))
    for command in (("table", "run"), ("report", "run"), ("resume", "run")):
        assert f"run/{name} is a pipe, a socket or a device" in output_of(*command)


@pytest.mark.usefixtures("folder")
def test_a_folder_with_a_pipe_as_run_json_is_not_a_run() -> None:
    Path("run/run.json").unlink()
    os.mkfifo("run/run.json")
    assert "run is not a run folder" in output_of("table", "run")
    shutil.copytree("run", "results/a", copy_function=lambda a, b: os.mkfifo(b) if a.endswith("run.json") else None)
    output_of("runs", code=0)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [*READERS, ("resume", "run")], ids=" ".join)
def test_a_journal_that_is_a_link_is_refused(command: tuple[str, ...]) -> None:
    Path("run/journal").rename("elsewhere")
    before = {path: path.read_bytes() for path in Path("elsewhere").iterdir()}
    Path("run/journal").symlink_to("../elsewhere")
    assert "run/journal is a link" in output_of(*command)
    assert {path: path.read_bytes() for path in Path("elsewhere").iterdir()} == before


def forged(change: Callable[[dict[str, Any]], object], *, kind: str = "outcome") -> None:
    """Change the journal's records of one kind and correct their checksums."""
    [segment] = Path("run/journal").glob("*.jsonl")
    lines: list[bytes] = []
    for line in segment.read_bytes().splitlines():
        record = decode_line(line)
        del record["crc"]
        if record["kind"] == kind:
            change(record)
        body = json.dumps(record, separators=(",", ":")).encode()[:-1]
        lines.append(b'%b,"crc":%d}\n' % (body, zlib.crc32(body)))
    segment.write_bytes(b"".join(lines))


FORGERIES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "no reply": ("reply", lambda record: record.pop("reply")),
    "a reply that is a list": ("reply", lambda record: record.update(reply=[])),
    "text that is a number": ("reply", lambda record: record["reply"].update(text=5)),
    "counts that are strings": ("reply", lambda record: record["reply"]["usage"].update(input_tokens="22")),
    "unknown counts": ("reply", lambda record: record["reply"]["usage"].update(gold=1)),
    "a class that is a list": ("class", lambda record: record.update({"class": []})),
    "an index beyond 64 bits": ("index", lambda record: record.update(index=10**30)),
    "a negative turn": ("turn", lambda record: record.update(turn=-1)),
    "a time out of range": ("at", lambda record: record.update(at=1e300)),
    "an invalid key": ("key", lambda record: record.update(key="../x")),
    "no attempt": ("attempt", lambda record: record.pop("attempt")),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", FORGERIES)
def test_a_forged_record_with_a_valid_checksum_is_refused(case: str) -> None:
    field, change = FORGERIES[case]
    forged(change)
    for command in (("table", "run"), ("show", "run"), ("resume", "run")):
        text = output_of(*command)
        assert "of the journal is not as convbatch writes it" in text
        assert f"'{field}' is missing or wrong" in text


@pytest.mark.usefixtures("folder")
def test_a_forged_session_record_is_refused() -> None:
    forged(lambda record: record.update(accepted_gaps=[1, 2]), kind="run")
    assert "'accepted_gaps' is missing or wrong" in output_of("table", "run")


@pytest.mark.usefixtures("folder")
def test_too_many_repeats_are_refused_at_once() -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    Path("run/run.json").write_bytes(orjson.dumps({**meta, "repeats": MAX_REPEATS + 1}))
    for command in READERS:
        assert "'repeats' is missing or wrong" in output_of(*command)
    write_dataset(Path("d.jsonl"), 1, 1)
    assert "at most 10,000 are possible" in output_of("run", "d.jsonl", "--repeats", "10001")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", ["rates", "judges"])
def test_optional_keys_of_run_json_may_be_null(key: str) -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    Path("run/run.json").write_bytes(orjson.dumps({**meta, key: None}))
    Path("run/turns.parquet").unlink()
    for command in (("table", "run"), ("report", "run")):
        output_of(*command, code=0)


@pytest.mark.usefixtures("folder")
def test_a_target_name_with_a_lone_surrogate_is_refused() -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    meta["targets"][0]["name"] = "\ud800@google"
    Path("run/run.json").write_text(json.dumps(meta))
    assert "'targets' is missing or wrong" in output_of("show", "run")


class Exploit:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


def test_a_pickle_in_a_table_is_never_loaded(folder: RunFolder) -> None:
    rows = pq.read_table(folder.turns)
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Exploit()),
    }
    fields = [field.with_metadata(extension) if field.name == "user" else field for field in rows.schema]
    table = rows.cast(pa.schema(fields, metadata={**(rows.schema.metadata or {}), b"pandas": pickle.dumps(Exploit())}))
    pq.write_table(table, folder.turns)
    for command in (*READERS, ("table", "run", "-o", "t.csv")):
        output_of(*command, code=2 if command[0] in ("check", "compare") else 0)  # nothing was checked
    assert load("run").turns["user"].tolist() == ["hello", "again"]
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["turns.parquet", "verdicts.parquet"])
def test_a_table_with_a_valid_stamp_and_other_columns_is_rebuilt(folder: RunFolder, name: str) -> None:
    table = folder.path / name
    stamp = pq.read_schema(table).metadata
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(stamp), table)
    for command in (("table", "run"), ("show", "run"), ("report", "run")):
        output_of(*command, code=0)
    assert load("run").turns["user"].tolist() == ["hello", "again"]


@pytest.mark.slow
def test_a_table_that_decompresses_to_gigabytes_is_read_in_bounded_memory(
    folder: RunFolder, convbatch: Command
) -> None:
    rows = pq.read_table(folder.turns)
    row = rows.slice(0, 1)
    many = pa.concat_tables([row.set_column(row.schema.get_field_index("user"), "user", [["x" * 1000]])] * 2000)
    with pq.ParquetWriter(folder.turns, many.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(many)
    assert folder.turns.stat().st_size < 2_000_000
    began = time.monotonic()
    done = convbatch("table", "run", "-o", "t.csv")
    assert done.code == 0, done.err
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("draft", "command"),
    [
        (".t.csv.{}.new", ("table", "run", "-o", "shared/t.csv")),
        (".n.jsonl.{}.part", ("convert", "d.jsonl", "shared/n.jsonl")),
    ],
    ids=["table", "convert"],
)
def test_a_link_at_the_path_of_a_temporary_file_is_not_followed(draft: str, command: tuple[str, ...]) -> None:
    """In a folder that others can write to, the name of a temporary file is predictable."""
    write_dataset(Path("d.jsonl"), 1, 1)
    Path("mine").write_text("precious")
    Path("shared").mkdir()
    Path("shared", draft.format(os.getpid())).symlink_to("../mine")
    output_of(*command, code=0)
    assert Path("mine").read_text() == "precious"


# --- keys ------------------------------------------------------------------------------------------------------------


MINE = {
    "base_url": "https://gateway.invalid/v1",
    "key_env": "MY_KEY",
    "proxy": "http://127.0.0.1:9",
    "auth": "bearer",
    "protocol": "openai",
}
"""A user-defined gateway; behind a proxy, so that no name is resolved."""
GOOGLE = "https://generativelanguage.googleapis.com"
OF_PRESET = {
    "base_url": GOOGLE,
    "key_env": "GEMINI_API_KEY",
    "auth": "x-goog-api-key",
    "api_version": "v1beta",
    "protocol": "gemini",
    "proxy": None,
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_KEY", "GEMINI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"sk-{name}-0123456789")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


def made_here(**gateway: Any) -> RunFolder:
    """Make the folder of a run that was created here and has sent no request."""
    folder = MadeRun(path=Path("run"), dialogues=[dialogue("d", "hello")], state="interrupted").write()
    point_targets_to(folder, **gateway)
    return folder


def point_targets_to(folder: RunFolder, *, here: bool = True, **gateway: Any) -> None:
    """Rewrite the gateways of a run's targets; `here`: as if the run had been started with them."""
    path = folder.path / "run.json"
    meta = json.loads(path.read_bytes())
    meta |= {"settings": {}, "options": {"max_attempts": 5}, "simulator": None}
    meta["dataset"]["sha256"] = copy_digest(folder.dataset)
    for target in meta["targets"]:
        target["gateway"].update(gateway)
    path.write_bytes(orjson.dumps(meta))
    if here:
        targets = map(target_from_manifest, folder.read_manifest().targets)
        path.write_bytes(orjson.dumps({**meta, "origin": remember_folder(folder, targets, reuse=None)}))


def sends_to(name: str) -> str:
    """Return the base URL that a resume would call; raise when it refuses."""
    return prepare_resume(ResumeOptions(run=name)).targets[0].gateway.base_url


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ({}, "refusing to send MY_KEY to https://gateway.invalid through the proxy http://127.0.0.1:9"),
        (
            {"base_url": f"{GOOGLE}.evil.example", "key_env": "GEMINI_API_KEY", "proxy": None},
            "googleapis.com.evil.example",
        ),
        ({"base_url": "http://evil.example\\@127.0.0.1", "proxy": None}, "evil.example"),
        ({"base_url": "http://127.0.0.1:9/v1"}, "through the proxy http://127.0.0.1:9"),
        ({"base_url": GOOGLE, "key_env": "GEMINI_API_KEY"}, "through the proxy http://127.0.0.1:9"),
        (
            {"base_url": GOOGLE, "key_env": "GEMINI_API_KEY", "proxy": None, "ca_file": "/x/ca.pem"},
            "with the CA file /x/ca",
        ),
        ({"base_url": GOOGLE, "key_env": "AWS_SECRET_ACCESS_KEY", "proxy": None}, "send AWS_SECRET_ACCESS_KEY to"),
    ],
    ids=[
        "host",
        "host with the same prefix",
        "ambiguous URL",
        "proxy",
        "proxy to a known host",
        "certificates",
        "other key",
    ],
)
def test_no_key_is_sent_to_an_untrusted_endpoint_of_a_foreign_folder(gateway: dict[str, Any], message: str) -> None:
    made_here(**{**MINE, **gateway})
    shutil.copytree("run", "sent")
    before = Path("sent/journal/000001.jsonl").read_bytes()
    text = output_of("resume", "sent")
    assert "this run folder was created elsewhere" in text
    assert message in text
    assert "0123456789" not in text
    assert Path("sent/journal/000001.jsonl").read_bytes() == before


@pytest.mark.usefixtures("keys")
def test_a_folder_that_was_renamed_or_restored_stays_trusted() -> None:
    made_here(**MINE)
    shutil.copytree("run", "backup")
    Path("run").rename("moved")
    assert sends_to("moved") == MINE["base_url"]
    shutil.rmtree("moved")
    Path("backup").rename("run")
    assert sends_to("run") == MINE["base_url"]


@pytest.mark.usefixtures("keys")
def test_replies_of_a_private_run_are_not_copied_because_a_folder_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for origin in (made_here(**OF_PRESET).path, Path("sent")):
        if origin.name == "sent":
            shutil.copytree("run", "sent")
        meta = json.loads(Path(origin, "run.json").read_bytes())
        Path(origin, "run.json").write_bytes(orjson.dumps({**meta, "options": {"reuse": "/private/run"}}))
        assert prepare_resume(ResumeOptions(run=str(origin))).reuse is None
        assert "note: no more replies of /private/run are reused" in capsys.readouterr().err


@pytest.mark.usefixtures("keys")
def test_a_folder_of_another_user_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    made_here(**MINE)
    os.chown("run", os.geteuid() + 1, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(SetupError, match="was created elsewhere"):
        sends_to("run")


@pytest.mark.usefixtures("keys")
def test_endpoints_of_presets_and_of_the_users_config_are_trusted() -> None:
    made_here(**MINE)
    shutil.copytree("run", "sent")
    lines = [f'{name} = "{value}"' for name, value in MINE.items()]
    Path("convbatch.toml").write_text("\n".join(["[gateways.mine]", *lines]))
    assert sends_to("sent") == MINE["base_url"]
    Path("convbatch.toml").unlink()
    point_targets_to(RunFolder.open(Path("sent")), here=False, **OF_PRESET)
    assert sends_to("sent") == GOOGLE


@pytest.mark.usefixtures("keys")
def test_only_tls_servers_elsewhere_that_get_no_key_need_no_trust() -> None:
    made_here(**{**MINE, "auth": "none"})
    shutil.copytree("run", "sent")
    assert sends_to("sent") == MINE["base_url"]
    sent = RunFolder.open(Path("sent"))
    for change in (
        {"base_url": "http://127.0.0.1:9/v1", "auth": "none"},
        {"base_url": "http://127.0.0.1:9/v1", "auth": "bearer"},
        {"base_url": "http://gateway.invalid/v1", "auth": "none", "allow_http": True},
        {"base_url": "simulator:@gateway.invalid", "auth": "none"},
        {"base_url": "https://gateway.invalid/v1", "auth": "none", "ca_file": "/dev/zero"},
    ):
        point_targets_to(sent, here=False, **{"proxy": None, "ca_file": None, **change})
        with pytest.raises(SetupError, match="was created elsewhere"):
            sends_to("sent")


SHAPES: tuple[dict[str, Any], ...] = (
    {"base_url": f"{GOOGLE}/tenant"},
    {"path": "v2/other:generateContent"},
    {"api_version": "v2"},
    {"auth": "query:key"},
    {"query": {"to": "evil"}},
    {"headers": {"Host": "evil.example"}},
    {"secret_headers": {"x-more": {"env": "MY_KEY", "prefix": "", "origin": None}}},
)


@pytest.mark.usefixtures("keys")
def test_a_known_host_does_not_make_every_request_to_it_trusted() -> None:
    made_here(**OF_PRESET)
    shutil.copytree("run", "sent")
    assert sends_to("sent") == GOOGLE
    before = Path("sent/run.json").read_bytes()
    for shape in SHAPES:
        for folder in ("sent", "run"):  # in a folder of mine, only what the run was started with
            Path(folder, "run.json").write_bytes(before)
            point_targets_to(RunFolder.open(Path(folder)), here=False, **shape)
            with pytest.raises(SetupError, match="refusing to send"):
                sends_to(folder)
    meta = json.loads(before)
    meta["targets"][0]["model"] = "../../m"
    Path("sent/run.json").write_bytes(orjson.dumps(meta))
    with pytest.raises(SetupError, match="refusing to send"):
        sends_to("sent")


@pytest.mark.usefixtures("keys")
def test_a_convbatch_toml_in_a_run_folder_is_a_part_of_it() -> None:
    made_here(**MINE)
    shutil.copytree("run", "sent")
    lines = [f'{name} = "{value}"' for name, value in MINE.items()]
    sent = Path("sent").resolve()
    for folder in (sent, sent / "journal"):
        Path(folder, "convbatch.toml").write_text("\n".join(["[gateways.mine]", *lines]))
        with contextlib.chdir(folder), pytest.raises(SetupError, match="was created elsewhere"):
            sends_to(str(sent))
    with contextlib.chdir(sent):
        point_targets_to(RunFolder.open(sent), here=True, **{**MINE, "key_env": "ANOTHER_KEY"})
        Path("convbatch.toml").write_text('env_file = "keys"')
        Path("keys").write_text("ANOTHER_KEY=sk-of-a-stranger-0123456789\nHTTP_PROXY=http://127.0.0.1:9\n")
        with pytest.raises(SetupError, match="ANOTHER_KEY is not set"):
            sends_to(str(sent))
