"""Run folders that somebody sends: made to keep a reader waiting, to be taken for records, to lead a writer or a key
astray. They are refused in words, and nothing outside of them is touched."""

from __future__ import annotations

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

from convbatch.dataset.snapshot import copy_digest
from convbatch.dialogue import MAX_REPEATS
from convbatch.errors import SetupError
from convbatch.journal.records import decode_line
from convbatch.journal.run_folder import RunFolder
from convbatch.results.cache import write_turns
from convbatch.results.run import load
from convbatch.session.options import ResumeOptions
from convbatch.session.prepare import prepare_resume
from tests.conftest import Command, write_dataset
from tests.scenarios.test_bad_folders import said
from tests.support.made_runs import MadeRun, dialogue

READERS = (("table", "run"), ("show", "run"), ("report", "run"), ("check", "run"), ("compare", "run", "run"))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    point(folder, base_url="http://127.0.0.1:9")  # and what `resume` needs
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
def test_a_pipe_in_a_run_folder_keeps_nobody_waiting(name: str) -> None:
    Path("run", name).unlink(missing_ok=True)
    os.mkfifo(Path("run", name))
    for command in (("table", "run"), ("report", "run"), ("resume", "run")):
        assert f"run/{name} is a pipe, a socket or a device" in said(*command)


@pytest.mark.usefixtures("folder")
def test_a_pipe_in_place_of_run_json_is_no_run() -> None:
    Path("run/run.json").unlink()
    os.mkfifo("run/run.json")
    assert "run is not a run folder" in said("table", "run")
    shutil.copytree("run", "results/a", copy_function=lambda a, b: os.mkfifo(b) if a.endswith("run.json") else None)
    said("runs", code=0)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [*READERS, ("resume", "run")], ids=" ".join)
def test_a_journal_that_is_a_link_leads_nobody_elsewhere(command: tuple[str, ...]) -> None:
    Path("run/journal").rename("elsewhere")
    before = {path: path.read_bytes() for path in Path("elsewhere").iterdir()}
    Path("run/journal").symlink_to("../elsewhere")
    assert "run/journal is a link" in said(*command)
    assert {path: path.read_bytes() for path in Path("elsewhere").iterdir()} == before


def forged(change: Callable[[dict[str, Any]], object], *, kind: str = "outcome") -> None:
    """Change the journal's records of one kind, and make their checksums right."""
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
    "counts that are texts": ("reply", lambda record: record["reply"]["usage"].update(input_tokens="22")),
    "counts nobody knows": ("reply", lambda record: record["reply"]["usage"].update(gold=1)),
    "a class that is a list": ("class", lambda record: record.update({"class": []})),
    "a place beyond 64 bits": ("index", lambda record: record.update(index=10**30)),
    "a negative turn": ("turn", lambda record: record.update(turn=-1)),
    "a time no calendar knows": ("at", lambda record: record.update(at=1e300)),
    "a key that is none": ("key", lambda record: record.update(key="../x")),
    "no attempt": ("attempt", lambda record: record.pop("attempt")),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("case", FORGERIES)
def test_a_record_with_a_right_checksum_that_convbatch_never_wrote_is_refused(case: str) -> None:
    field, change = FORGERIES[case]
    forged(change)
    for command in (("table", "run"), ("show", "run"), ("resume", "run")):
        text = said(*command)
        assert "of the journal is not as convbatch writes it" in text
        assert f"'{field}' is missing or wrong" in text


@pytest.mark.usefixtures("folder")
def test_a_forged_session_is_refused_as_well() -> None:
    forged(lambda record: record.update(accepted_gaps=[1, 2]), kind="run")
    assert "'accepted_gaps' is missing or wrong" in said("table", "run")


@pytest.mark.usefixtures("folder")
def test_endless_repeats_are_refused_before_anybody_counts_to_them() -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    Path("run/run.json").write_bytes(orjson.dumps({**meta, "repeats": MAX_REPEATS + 1}))
    for command in READERS:
        assert "'repeats' is missing or wrong" in said(*command)
    write_dataset(Path("d.jsonl"), 1, 1)
    assert "at most 10,000 are possible" in said("run", "d.jsonl", "--repeats", "10001")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("key", ["rates", "judges"])
def test_what_a_run_may_leave_out_may_also_be_null(key: str) -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    Path("run/run.json").write_bytes(orjson.dumps({**meta, key: None}))
    Path("run/turns.parquet").unlink()
    for command in (("table", "run"), ("report", "run")):
        said(*command, code=0)


@pytest.mark.usefixtures("folder")
def test_a_target_with_half_a_character_in_its_name_is_refused() -> None:
    meta = json.loads(Path("run/run.json").read_bytes())
    meta["targets"][0]["name"] = "\ud800@google"
    Path("run/run.json").write_text(json.dumps(meta))
    assert "'targets' is missing or wrong" in said("show", "run")


class Exploit:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


def test_a_pickle_in_a_table_is_never_opened(folder: RunFolder) -> None:
    told = pq.read_table(folder.turns)
    extension = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Exploit()),
    }
    fields = [field.with_metadata(extension) if field.name == "user" else field for field in told.schema]
    table = told.cast(pa.schema(fields, metadata={**(told.schema.metadata or {}), b"pandas": pickle.dumps(Exploit())}))
    pq.write_table(table, folder.turns)
    for command in (*READERS, ("table", "run", "-o", "t.csv")):
        said(*command, code=2 if command[0] in ("check", "compare") else 0)  # nothing was checked
    assert load("run").turns["user"].tolist() == ["hello", "again"]
    assert not Path("owned").exists()


@pytest.mark.parametrize("name", ["turns.parquet", "verdicts.parquet"])
def test_a_table_stamped_fresh_that_is_another_table_is_built_anew(folder: RunFolder, name: str) -> None:
    table = folder.path / name
    stamp = pq.read_schema(table).metadata
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(stamp), table)
    for command in (("table", "run"), ("show", "run"), ("report", "run")):
        said(*command, code=0)
    assert load("run").turns["user"].tolist() == ["hello", "again"]


@pytest.mark.slow
def test_a_table_that_unpacks_to_gigabytes_is_read_in_bounded_memory(folder: RunFolder, convbatch: Command) -> None:
    told = pq.read_table(folder.turns)
    row = told.slice(0, 1)
    many = pa.concat_tables([row.set_column(row.schema.get_field_index("user"), "user", [["x" * 1000]])] * 2000)
    with pq.ParquetWriter(folder.turns, many.schema, compression="zstd") as writer:
        for _ in range(20):
            writer.write_table(many)
    assert folder.turns.stat().st_size < 2_000_000
    begun = time.monotonic()
    done = convbatch("table", "run", "-o", "t.csv")
    assert done.code == 0, done.err
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("draft", "command"),
    [
        (".t.csv.{}.new", ("table", "run", "-o", "shared/t.csv")),
        (".n.jsonl.{}.part", ("convert", "d.jsonl", "shared/n.jsonl")),
    ],
    ids=["table", "convert"],
)
def test_a_link_laid_where_a_draft_will_be_is_not_followed(draft: str, command: tuple[str, ...]) -> None:
    """In a folder that others may write to, the name of a draft can be foretold."""
    write_dataset(Path("d.jsonl"), 1, 1)
    Path("mine").write_text("precious")
    Path("shared").mkdir()
    Path("shared", draft.format(os.getpid())).symlink_to("../mine")
    said(*command, code=0)
    assert Path("mine").read_text() == "precious"


# --- keys ------------------------------------------------------------------------------------------------------------


MINE = {"base_url": "https://gateway.invalid/v1", "key_env": "MY_KEY", "proxy": "http://127.0.0.1:9", "auth": "bearer"}
"""A gateway of one's own; behind a proxy, so that nothing is looked up."""
GOOGLE = "https://generativelanguage.googleapis.com"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MY_KEY", "GEMINI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, f"sk-{name}-0123456789")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")


def begun(**gateway: Any) -> RunFolder:
    """A folder of a run that began here and asked nothing yet."""
    folder = MadeRun(path=Path("run"), dialogues=[dialogue("d", "hello")], state="interrupted").write()
    point(folder, **gateway)
    return folder


def point(folder: RunFolder, *, place: int | None = None, **gateway: Any) -> None:
    """Rewrite where a run's targets are."""
    path = folder.path / "run.json"
    meta = json.loads(path.read_bytes())
    meta |= {"place": place or folder.inode(), "settings": {}, "options": {"max_attempts": 5}, "simulator": None}
    meta["dataset"]["sha256"] = copy_digest(folder.dataset)
    for target in meta["targets"]:
        target["gateway"].update(gateway)
    path.write_bytes(orjson.dumps(meta))


def sends_to(name: str) -> str:
    """Where a resume would go; raises where it refuses."""
    return prepare_resume(ResumeOptions(run=name)).targets[0].gateway.base_url


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("gateway", "told"),
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
        "host that begins alike",
        "two readings",
        "proxy",
        "proxy to a known host",
        "certificates",
        "other key",
    ],
)
def test_a_folder_from_elsewhere_has_no_key_sent_where_nobody_here_sends_it(gateway: dict[str, Any], told: str) -> None:
    begun(**{**MINE, **gateway})
    shutil.copytree("run", "sent")
    before = Path("sent/journal/000001.jsonl").read_bytes()
    text = said("resume", "sent")
    assert "this run folder was created elsewhere" in text
    assert told in text
    assert "0123456789" not in text
    assert Path("sent/journal/000001.jsonl").read_bytes() == before


@pytest.mark.usefixtures("keys")
def test_a_folder_that_was_only_renamed_is_believed() -> None:
    begun(**MINE)
    Path("run").rename("moved")
    assert sends_to("moved") == MINE["base_url"]


@pytest.mark.usefixtures("keys")
def test_a_folder_of_another_user_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    begun(**MINE)
    os.chown("run", os.geteuid() + 1, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: -1)
    with pytest.raises(SetupError, match="was created elsewhere"):
        sends_to("run")


@pytest.mark.usefixtures("keys")
def test_a_way_that_a_preset_or_the_users_own_config_knows_is_taken() -> None:
    begun(**MINE)
    shutil.copytree("run", "sent")
    lines = [f'{name} = "{value}"' for name, value in {**MINE, "protocol": "openai"}.items()]
    Path("convbatch.toml").write_text("\n".join(["[gateways.mine]", *lines]))
    assert sends_to("sent") == MINE["base_url"]
    Path("convbatch.toml").unlink()
    point(RunFolder.open(Path("sent")), place=1, base_url=GOOGLE, key_env="GEMINI_API_KEY", proxy=None)
    assert sends_to("sent") == GOOGLE


@pytest.mark.usefixtures("keys")
def test_a_way_without_a_key_or_inside_the_machine_needs_nobody_to_vouch() -> None:
    begun(**{**MINE, "auth": "none"})
    shutil.copytree("run", "sent")
    assert sends_to("sent") == MINE["base_url"]
    point(RunFolder.open(Path("sent")), place=1, base_url="http://127.0.0.1:9/v1", auth="bearer", proxy=None)
    assert sends_to("sent") == "http://127.0.0.1:9/v1"
