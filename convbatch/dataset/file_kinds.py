"""Files that are no dataset: what they are, told from their first bytes and their name, and the command that helps."""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from convbatch.errors import Issue
from convbatch.paths import expand_home

_ANY = "a dataset is JSON lines in UTF-8, plain or gzip; see docs/dataset.md"
_PANDAS = (
    "python -c \"import pandas; pandas.{reader}('{name}').to_json('{stem}.jsonl', orient='records', lines=True, "
    'force_ascii=False)"'
)
_PICKLE = "in Python, write its dialogues one a line: json.dumps(dialogue, ensure_ascii=False)"
_ICONV = "save it as UTF-8: iconv -f {encoding} -t UTF-8 {name} > {stem}.utf8.jsonl"


@dataclass(frozen=True, slots=True)
class _Magic:
    """Files that start with the same bytes."""

    start: bytes
    what: str
    hint: str = _ANY


_MAGIC = (
    _Magic(b"\xff\xfe\0\0", "is UTF-32 text, not a dataset", _ICONV.replace("{encoding}", "UTF-32")),
    _Magic(b"\xff\xfe", "is UTF-16 text, not a dataset", _ICONV.replace("{encoding}", "UTF-16")),
    _Magic(b"\xfe\xff", "is UTF-16 text, not a dataset", _ICONV.replace("{encoding}", "UTF-16")),
    _Magic(
        b"PK\x03\x04",
        "is a zip archive (or a spreadsheet), not a dataset",
        "a log of inspect_ai: convbatch convert {name} {stem}.jsonl; unzip others, save a spreadsheet as NAME.xlsx",
    ),
    _Magic(
        b"\xd0\xcf\x11\xe0",
        "is an old or encrypted Office document, not a dataset",
        "save a spreadsheet as NAME.xlsx without a password, or as CSV UTF-8",
    ),
    _Magic(b"\x28\xb5\x2f\xfd", "is zstd compressed, not a dataset", "zstd -d {name} -o {stem}.jsonl"),
    _Magic(b"BZh", "is bzip2 compressed, not a dataset", "bunzip2 -k {name}"),
    _Magic(b"\xfd7zXZ", "is xz compressed, not a dataset", "unxz -k {name}"),
    _Magic(b"7z\xbc\xaf", "is a 7z archive, not a dataset", "7z x {name}"),
    _Magic(b"PAR1", "is a Parquet table, not a dataset", _PANDAS.replace("{reader}", "read_parquet")),
    _Magic(b"ARROW1", "is an Arrow (Feather) table, not a dataset", _PANDAS.replace("{reader}", "read_feather")),
    _Magic(b"SQLite format 3", "is an SQLite database, not a dataset"),
    _Magic(b"%PDF", "is a PDF, not a dataset"),
    *(_Magic(bytes((0x80, version)), "is a Python pickle, not a dataset", _PICKLE) for version in (2, 3, 4, 5)),
    _Magic(b"version https://git-lfs", "is a Git LFS pointer, not the dataset itself", "git lfs pull"),
)


def binary_kind(head: bytes, path: Path) -> Issue | None:
    """Return what a file is that no line can be read from; None for text."""
    for magic in _MAGIC:
        if head.startswith(magic.start):
            return Issue(what=magic.what, found=repr(head[:8]), hint=_filled(magic.hint, path))
    if b"\0" not in head:
        return None
    for encoding, zeros in (("UTF-16LE", head[1::2]), ("UTF-16BE", head[::2])):
        if len(head) >= 8 and zeros.count(0) > 0.7 * len(zeros):
            what = f"is UTF-16 text without a byte order mark ({encoding}), not a dataset"
            return Issue(what=what, found=repr(head[:8]), hint=_filled(_ICONV.replace("{encoding}", encoding), path))
    return Issue(what="is a binary file, not a dataset", found=repr(head[:16]), hint=_ANY)


def text_kind(head: bytes, path: Path) -> Issue | None:
    """Return what a text file is whose first line is not JSON; None when it may be JSON lines with an error.

    Args:
        head: The first lines; the last one may be cut.
        path: The file; its name counts only where the content agrees.
    """
    lines = [line for line in head.decode("utf-8", "replace").splitlines() if line.strip()]
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    is_table = suffix == ".toml" and re.match(r"\[\[?[\w.\"' -]+\]\]?\s*(#.*)?$", lines[0] if lines else "")
    if not lines or (lines[0].lstrip().startswith(("{", "[")) and not is_table):
        return None
    for looks, what, hint in _TEXTS:
        if looks(lines, suffix):
            return Issue(what=f"looks like {what}, not like JSON lines", found=lines[0][:60], hint=_filled(hint, path))
    return None


def _filled(hint: str, path: Path) -> str:
    name = path.name.removesuffix(".gz")
    stem = Path(name).stem or "OUT"
    if f"{stem}.jsonl" == path.name:
        stem += ".new"  # never a command that writes over the file that it reads
    return hint.replace("{name}", str(path)).replace("{stem}", stem)


def _is_table(lines: list[str], suffix: str, mark: str, names: tuple[str, ...]) -> bool:
    header = lines[0].split(mark)
    if len(header) < 2:
        return False
    if suffix in names:
        return True
    # Without the name: a header of plain words, and every whole line has the mark as well.
    is_header = all(re.fullmatch(r"\"?\w[\w .-]{0,40}\"?", cell.strip()) for cell in header)
    return is_header and len(lines) > 1 and mark in lines[1]


def _is_csv(lines: list[str], suffix: str) -> bool:
    return _is_table(lines, suffix, ",", (".csv",)) or _is_table(lines, suffix, ";", (".csv",))


def _is_tsv(lines: list[str], suffix: str) -> bool:
    return _is_table(lines, suffix, "\t", (".tsv", ".tab", ".csv"))


def _is_yaml(lines: list[str], suffix: str) -> bool:
    plain = [line for line in lines if not line.lstrip().startswith("#")] or lines
    if suffix in (".yaml", ".yml"):
        return re.match(r"---|%|- |[\w\"']+:", plain[0]) is not None
    known = "id|turns|system|messages|conversations?|contents|dialogues|prompts|tests|description|user|input"
    return re.match(rf"---\s*$|%YAML|- [\w\"']+:(\s|$)|({known}):(\s|$)", plain[0]) is not None


def _is_promptfoo(lines: list[str], suffix: str) -> bool:
    keys = {line.partition(":")[0] for line in lines if re.match(r"\w+:", line)}
    return len(keys & {"prompts", "providers", "tests", "defaultTest", "scenarios"}) > 1


def _is_toml(lines: list[str], suffix: str) -> bool:
    plain = next((line for line in lines if not line.startswith("#")), "")
    return suffix == ".toml" or re.match(r"[\w.-]+ = \S", plain) is not None


def _is_markup(lines: list[str], suffix: str) -> bool:
    return re.match(r"<(!doctype|\?xml|html|[a-z]+[ />])", lines[0].lstrip(), re.IGNORECASE) is not None


def _is_plain(lines: list[str], suffix: str) -> bool:
    return suffix in (".txt", ".text", ".md", ".markdown", ".log", ".py", "") and len(lines[0].split()) > 0


_SHAPE = 'one JSON dialogue a line: {"turns": [{"user": "Hello"}]}'
_TEXTS = (
    (_is_markup, "HTML or XML (a download page or an error page?)", f"download the file itself; {_SHAPE}"),
    (
        _is_csv,
        "CSV",
        "name it {stem}.csv, with columns such as turn, user, assistant: convbatch convert {stem}.csv {stem}.jsonl",
    ),
    (
        _is_tsv,
        "a table with tabs (TSV)",
        "name it {stem}.tsv, with columns such as turn, user, assistant: convbatch convert {stem}.tsv {stem}.jsonl",
    ),
    (_is_promptfoo, "a config of promptfoo", "convbatch convert {name} {stem}.jsonl"),
    (_is_yaml, "YAML", "yq -o=json -I=0 '.[]' {name} > {stem}.jsonl (a list of dialogues; yq '.' for a single one)"),
    (_is_toml, "TOML", _SHAPE),
    (_is_plain, "plain text", _SHAPE),
)

# Words that are no file.


def other_word(path: Path) -> Issue | None:
    """Return what a word is that is no path: an address, several files, a target, a text in quotes; else None."""
    text = str(path)
    address = re.match(r"([a-z][a-z0-9+.-]+):/(/?)", text)
    if address is not None:
        return _address(address[1], text[address.end() :])
    if text.startswith("~"):
        return Issue(what="no such file: `~` is not expanded here", hint=f"write {expand_home(path)}")
    parts = [part for part in re.split(r"\s*[,，;；]\s*", text) if part]
    if len(parts) > 1 and any(Path(part).is_file() for part in parts):
        return Issue(what="no such file", hint=f"separate files by a space: {shlex.join(parts)}")
    bare = text.strip("“”‘’„\"'「」 \u3000\u00a0")
    if bare != text and Path(bare).is_file():
        return Issue(what="no such file: quotes or blanks are part of the name", hint=f"write {shlex.quote(bare)}")
    if text.lower() in ("true", "false", "yes", "no", "on", "off"):
        return Issue(what="no such file", hint=f"an option that is only on or off has no value: leave {text} out")
    model, at, gateway = path.name.rpartition("@")
    if at and model and re.fullmatch(r"[\w-]+", gateway):
        return Issue(what="no such file", hint=f"a target has -m in front, each of them: -m {shlex.quote(text)}")
    return None


def _address(scheme: str, rest: str) -> Issue:
    if scheme == "file":
        return Issue(what="is an address, not a path", hint=f"write /{rest.lstrip('/')}")
    name = rest.partition("?")[0].rstrip("/").rpartition("/")[2] or "d.jsonl"
    url = shlex.quote(f"{scheme}://{rest}")
    fetch = {"s3": f"aws s3 cp {url} {name}", "gs": f"gcloud storage cp {url} {name}"}
    fetch |= dict.fromkeys(("http", "https", "ftp"), f"curl -fL -o {name} {url}")
    command = fetch.get(scheme, f"fetch {url} as {name}")
    return Issue(what="is an address, not a file", hint=f"download it first, then name {name}: {command}")


# Text that is not UTF-8.

_PAIRS = (
    ("GB18030", "Chinese, simplified"),
    ("BIG5", "Chinese, traditional"),
    ("SHIFT_JIS", "Japanese"),
    ("CP949", "Korean"),
)
_SINGLES = (("CP1252", "Western"), ("CP1251", "Cyrillic"))


def encoding_hint(content: bytes, at: int, path: Path) -> str:
    """Return how to make UTF-8 of a file that is not from byte `at` on; without its content, which may be a key.

    Args:
        content: The whole file.
        at: The first byte that is not UTF-8.
        path: The file.
    """
    start = content.rfind(b"\n", 0, at) + 1
    likely = [name for name, _, _ in _likely_encodings(content[start : at + 400].split(b"\n")[0], at - start)]
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        likely = ["UTF-16"]
    name, new = shlex.quote(str(path)), shlex.quote(f"{path.stem}.utf8{path.suffix}")
    commands = [f"iconv -f {encoding} -t UTF-8 {name} > {new}" for encoding in likely[:2]]
    return "save it as UTF-8" + (f": {'; or '.join(commands)}" if commands else "")


def not_utf8(line: bytes, at: int) -> Issue:
    """Describe a line that is not UTF-8 from byte `at` on: the likely encodings, each with its command."""
    likely = _likely_encodings(line, at)[:4]
    commands = [f"iconv -f {encoding} -t UTF-8 IN > OUT ({spoken}: {sample})" for encoding, spoken, sample in likely]
    hint = "save the file as UTF-8: " + "; or ".join(commands) if commands else "save the file as UTF-8"
    return Issue(what=f"not UTF-8 at byte {at + 1} of the line", found=repr(line[at : at + 8]), hint=hint)


def _likely_encodings(line: bytes, at: int) -> list[tuple[str, str, str]]:
    """Return the likely encodings of a line: their name, who writes it, and what the line says then."""
    high = re.findall(rb"[\x80-\xff]+", line)
    alone = sum(len(run) == 1 for run in high)
    likely = (*_SINGLES, *_PAIRS) if alone * 2 > len(high) else (*_PAIRS, *_SINGLES)
    if min(b"".join(high), default=0) >= 0xC0:  # where CP1251 has its letters; rare for a whole text in pairs
        likely = (_SINGLES[1], *(one for one in likely if one != _SINGLES[1]))
    choices: list[tuple[bool, tuple[str, str, str]]] = []
    start = max(0, line.rfind(b'"', 0, at) + 1)
    for encoding, spoken in likely:
        try:
            line.decode(encoding)
            sample = re.split('["\r\n]', line[start : at + 16].decode(encoding, "ignore"))[0][:12]
        except (UnicodeDecodeError, LookupError):
            continue
        read = line[start : at + 400].decode(encoding, "ignore")
        choices.append((not _is_words(read), (encoding, spoken, sample)))
    choices.sort(key=lambda choice: choice[0])  # what reads as words comes first, in the order above
    return [choice for _, choice in choices]


def _is_words(text: str) -> bool:
    """Whether everything beyond ASCII is a letter, an accent or punctuation, and no word mixes Latin and Cyrillic."""
    high = [character for character in text if character > "\x7f"]
    if any(unicodedata.category(character)[0] not in "LMP" for character in high):
        return False
    return not any(re.search("[a-zA-Z\u00c0-\u024f]", word) for word in re.findall(r"\w*[\u0400-\u04ff]\w*", text))
