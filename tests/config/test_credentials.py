"""Keys from the environment and their place in a request; proxies; the two published requests."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.config.credentials import (
    Credentials,
    apply_auth,
    key_for,
    proxy_for,
    read_env_file,
    secrets_of,
    with_env_file,
)
from convbatch.config.gateways import Gateway, SecretHeader
from convbatch.config.loader import load_config, presets
from convbatch.config.targets import resolve_targets
from convbatch.dialogue import Message, Role, text_part
from convbatch.errors import InputError, SetupError
from convbatch.protocols import PROTOCOLS
from convbatch.protocols.wire import Ask
from convbatch.redaction import Redactor, Secret, redact
from tests.support.tables import each

CONFIGS = Path(__file__).parents[2] / "configs"
URL = "https://host/v1/models/m:generateContent"
KEY = "sk-a1B2c3D4e5F6g7H8"


def gateway(auth: str = "bearer", key_env: str | None = "MY_KEY", proxy: str | None = None) -> Gateway:
    return Gateway(
        name="g",
        protocol="openai",
        base_url="https://h/v1",
        auth=auth,
        key_env=key_env,
        proxy=proxy,
        key_origin="x.toml:3",
    )


# --- placement


@each(
    ("scheme", "url", "headers"),
    [
        ("bearer", URL, {"Authorization": f"Bearer {KEY}"}),
        ("raw", URL, {"Authorization": KEY}),
        ("x-goog-api-key", URL, {"x-goog-api-key": KEY}),
        ("x-api-key", URL, {"x-api-key": KEY}),
        ("header:X-Company", URL, {"X-Company": KEY}),
        ("query:key", f"{URL}?key={KEY}", {}),
    ],
)
def test_a_key_goes_where_the_scheme_says_and_nowhere_else(scheme: str, url: str, headers: dict[str, str]) -> None:
    assert apply_auth(URL, {"Accept": "a"}, scheme, KEY) == (url, {"Accept": "a", **headers})


def test_none_sends_no_key() -> None:
    assert apply_auth(URL, {"Accept": "a"}, "none", None) == (URL, {"Accept": "a"})


def test_a_query_key_is_encoded_and_follows_the_other_parameters() -> None:
    url, _ = apply_auth("https://h/p?alt=sse", {}, "query:key", "a+b/c&d=é")
    assert url == "https://h/p?alt=sse&key=a%2Bb%2Fc%26d%3D%C3%A9"


def test_a_key_replaces_a_header_of_its_name_in_any_case() -> None:
    assert apply_auth(URL, {"authorization": "other"}, "raw", KEY) == (URL, {"Authorization": KEY})


@each("scheme", ["basic", "header:", "header:a b", "query:", "query:a&b", "Bearer", ""])
def test_an_unknown_scheme_is_an_error_not_a_request_without_a_key(scheme: str) -> None:
    with pytest.raises(ValueError, match="unknown auth scheme"):
        apply_auth(URL, {}, scheme, KEY)
    with pytest.raises(ValueError, match="needs a key"):
        apply_auth(URL, {}, "bearer", None)


def _messages(*texts: str) -> tuple[Message, ...]:
    roles: tuple[Role, Role] = ("user", "assistant")
    return tuple(Message(role=roles[n % 2], parts=(text_part(text),)) for n, text in enumerate(texts))


DMXAPI_TEXTS = ("今天是几号", "今天是2025年12月26日", "明天是几号")
GOOGLE_TEXTS = (
    "Hello",
    "Great to meet you. What would you like to know?",
    "I have two dogs in my house. How many paws are in my house?",
)
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.0-flash:generateContent"


@pytest.mark.parametrize(
    ("name", "texts", "url", "header"),
    [
        (
            "gemini-2.5-flash@dmxapi",
            DMXAPI_TEXTS,
            "https://www.dmxapi.cn/v1beta/models/gemini-2.5-flash:generateContent",
            ("Authorization", KEY),
        ),
        ("gemini-2.0-flash@google-query", GOOGLE_TEXTS, f"{GOOGLE}?key={KEY}", None),
        ("gemini-2.0-flash@google", GOOGLE_TEXTS, GOOGLE, ("x-goog-api-key", KEY)),
    ],
    ids=["dmxapi: bare Authorization", "google: ?key=", "google: x-goog-api-key"],
)
def test_the_published_requests_are_reproduced(
    name: str, texts: tuple[str, ...], url: str, header: tuple[str, str] | None
) -> None:
    (target,) = resolve_targets([name], [], load_config(CONFIGS / "seeds.toml"))
    env = {"GEMINI_API_KEY": KEY, "DMXAPI_API_KEY": KEY}
    request = PROTOCOLS["gemini"].build_request(
        Ask(model=target.model, messages=_messages(*texts), settings=target.gateway.settings), target.gateway.endpoint
    )
    sent_url, sent_headers = apply_auth(request.url, request.headers, target.gateway.auth, key_for(target.gateway, env))
    assert (request.method, sent_url) == ("POST", url)
    assert {name: value for name, value in sent_headers.items() if KEY in value} == dict([header] if header else [])
    assert sent_headers["Content-Type"] == "application/json"
    roles = ("user", "model", "user")
    expected = {
        "contents": [{"role": role, "parts": [{"text": text}]} for role, text in zip(roles, texts, strict=True)]
    }
    assert json.loads(json.dumps(request.json)) == expected


# --- reading


def test_a_key_is_read_from_its_variable_and_stripped() -> None:
    assert key_for(gateway(), {"MY_KEY": f" {KEY}\n"}) == KEY
    assert key_for(gateway("none"), {}) is None


@each(
    ("value", "what", "hint"),
    [
        (None, "MY_KEY is not set", "export MY_KEY=..., or write MY_KEY=... into a file and add --env-file FILE"),
        ("", "MY_KEY is set but empty", "export MY_KEY"),
        (" \n", "MY_KEY is set but empty", "export MY_KEY"),
        ("ab cd-hidden", "contains blanks or line ends", "a key has none"),
        ("ab\ncd-hidden", "contains blanks or line ends", "a key has none"),
        ("Bearer cd-hidden", "starts with the word Bearer", 'auth = "bearer" adds'),
        ('"cd-hidden"', "is in quotation marks", "remove"),
        ("cd-hidden\u201d", "U+201D, position 10", "plain ASCII"),
        ("cd-hidden\xa0x", "contains blanks", "a key has none"),
        ("钥匙-hidden", "U+94A5, position 1", "plain ASCII"),
        ("cd-hidden\x00", "U+0000", "plain ASCII"),
    ],
)
def test_a_key_that_cannot_be_sent_is_explained_without_showing_it(value: str | None, what: str, hint: str) -> None:
    env = {} if value is None else {"MY_KEY": value}
    with pytest.raises(SetupError) as caught:
        key_for(gateway(), env)
    problem = caught.value.problems[0]
    assert what in problem.what
    assert hint in (problem.hint or "")
    assert problem.found == "required by x.toml:3"
    assert "hidden" not in str(caught.value)


def test_a_missing_key_error_names_the_preset_and_a_similar_variable() -> None:
    google = presets()["google"].for_model("m")
    with pytest.raises(SetupError) as caught:
        key_for(google, {"GOOGLE_API_KEY": KEY, "HOME": "/"})
    assert "required by the preset 'google'" in str(caught.value)
    assert 'write key_env = "GOOGLE_API_KEY"' in str(caught.value)
    assert KEY not in str(caught.value)


def test_all_missing_keys_are_reported_at_once_and_each_once() -> None:
    asked = [presets()[name].for_model("m") for name in ("google", "dmxapi", "dmxapi-openai", "local", "openai")]
    with pytest.raises(SetupError) as caught:
        Credentials({"OPENAI_API_KEY": KEY}).require_keys(asked)
    assert re.findall(r"variable (\w+) is not set", str(caught.value)) == ["GEMINI_API_KEY", "DMXAPI_API_KEY"]
    assert len(caught.value.problems) == 2
    env = {"OPENAI_API_KEY": "one", "GEMINI_API_KEY": "two", "DMXAPI_API_KEY": "three"}
    credentials = Credentials(env)
    credentials.require_keys(asked)
    assert [credentials.key(one) for one in asked] == ["two", "three", "three", None, "one"]


def test_missing_variables_are_listed_once_and_blank_ones_are_missing() -> None:
    asked = [presets()[name].for_model("m") for name in ("google", "dmxapi", "dmxapi-openai", "local", "openai")]
    credentials = Credentials({"OPENAI_API_KEY": KEY, "GEMINI_API_KEY": " "})
    assert credentials.missing(asked) == ("GEMINI_API_KEY", "DMXAPI_API_KEY")


def test_loading_registers_the_secrets_and_shows_none(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("MY_KEY=sk-loaded-from-a-file\nUNUSED=another-value-here\n")
    credentials = Credentials.load([gateway()], env_file=path, env={"HTTPS_PROXY": "http://user:pass-word@p:1"})
    assert credentials.key(gateway()) == "sk-loaded-from-a-file"
    assert credentials.proxy(gateway()) == "http://user:pass-word@p:1"
    line = "sent sk-loaded-from-a-file through user:pass-word@p"
    assert redact(line) == "sent [redacted:MY_KEY] through [redacted:HTTPS_PROXY]@p"
    assert credentials.redactor().text(line) == redact(line)
    for value in ("sk-loaded", "another", "pass-word"):
        assert value not in repr(credentials)


# --- env files


def test_usual_forms_of_env_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(
        b"\xef\xbb\xbf# comment\r\n\r\nA=1\r\nexport B = two words # note\r\nC='x # $A \\n'\r\n"
        b'D="a\\n\\"b\\" \\\\ #" # note\r\nE=\r\nF=a#b\r\nG="" \r\nH=\xe4\xbb\x8a=x\r\n'
    )
    assert read_env_file(path) == {
        "A": "1", "B": "two words", "C": "x # $A \\n", "D": 'a\n"b" \\ #', "E": "", "F": "a#b", "G": "", "H": "今=x",
    }  # fmt: skip


def test_every_bad_line_of_an_env_file_is_reported_without_its_value(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text('hidden\nA=\'hidden\nB="hidden" more\n1C=hidden\nOK=1\nOK=hidden\n')
    with pytest.raises(InputError) as caught:
        read_env_file(path)
    error = str(caught.value)
    assert re.findall(r"\.env:(\d+):", error) == ["1", "2", "3", "4", "6"]
    assert "hidden" not in error


def test_an_unreadable_env_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.env: the env file cannot be read"):
        read_env_file(tmp_path / "no.env")
    for content, encoding in ((b"A=1\nB=\xff\n", ""), ("A=sk-1\nB=你好\n".encode("gbk"), "iconv -f GB18030 -t UTF-8")):
        (tmp_path / "bad.env").write_bytes(content)
        with pytest.raises(InputError, match=rf"bad\.env:2: the env file is not UTF-8[^=]*{encoding}") as caught:
            read_env_file(tmp_path / "bad.env")
        assert "sk-1" not in str(caught.value)


def test_the_environment_takes_precedence_over_the_env_file_unless_blank(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=file\nB=file\nC=file\n")
    assert with_env_file({"A": "env", "B": " ", "D": ""}, path) == {"A": "env", "B": "file", "C": "file", "D": ""}
    assert with_env_file({"A": "env"}, None) == {"A": "env"}


@given(st.text(st.characters(exclude_characters="'\n\r", exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_a_value_in_single_quotes_is_read_unchanged(tmp_path_factory: pytest.TempPathFactory, value: str) -> None:
    path = tmp_path_factory.getbasetemp() / "law.env"
    path.write_text(f"A='{value}'\n", encoding="utf-8")
    assert read_env_file(path) == {"A": value}


@each(
    ("value", "prefix", "problem"),
    [
        (None, "", "is not set"),
        (" ", "", "is set but empty"),
        ("Bearer abcdef", "Bearer ", "starts with a scheme word"),
        ("two\nlines", "", "cannot be in a header"),
        ('"quoted"', "", "quotation marks"),
        ("schlüssel", "", "cannot be in a header"),
    ],
)
def test_a_secret_header_that_cannot_be_sent_is_explained_without_showing_it(
    value: str | None, prefix: str, problem: str
) -> None:
    header = SecretHeader(env="EXTRA", prefix=prefix, origin="x.toml:7")
    given = dataclasses.replace(gateway("none", None), secret_headers={"X-A": header})
    with pytest.raises(SetupError, match=f"EXTRA .*{problem}") as caught:
        Credentials({} if value is None else {"EXTRA": value}).require_keys([given])
    assert "required by the secret header X-A in x.toml:7" in str(caught.value)
    assert value is None or not value.strip() or value not in str(caught.value)


def test_the_parts_of_a_secret_header_are_secrets_too() -> None:
    basic = base64.b64encode(b"user:correct-horse-battery").decode()
    headers = {"A": SecretHeader(env="A", prefix="Basic "), "B": SecretHeader(env="B"), "C": SecretHeader(env="C")}
    given = dataclasses.replace(gateway("none", None), secret_headers=headers)
    env = {"A": basic, "B": "Bearer token-of-b-1234", "C": "plain-of-c-1234"}
    assert Credentials(env).secret_headers(given) == {"A": f"Basic {basic}", "B": env["B"], "C": env["C"]}
    redactor = Redactor(secrets_of([given], env))
    shown = redactor.text(f"{basic} correct-horse-battery token-of-b-1234 plain-of-c-1234")
    assert shown == "[redacted:A] [redacted:A] [redacted:B] [redacted:C]"


# --- proxies

PROXY = "http://p:3128"
PROXIED: list[tuple[str, str, dict[str, str], str | None]] = [
    ("https upper", "https://h/x", {"HTTPS_PROXY": PROXY}, PROXY),
    ("https lower", "https://h/x", {"https_proxy": PROXY}, PROXY),
    ("lower first", "https://h/x", {"https_proxy": PROXY, "HTTPS_PROXY": "http://q"}, PROXY),
    ("lower empty", "https://h/x", {"https_proxy": "", "HTTPS_PROXY": "http://q"}, None),
    ("other scheme", "https://h/x", {"HTTP_PROXY": PROXY}, None),
    ("http", "http://h/x", {"HTTP_PROXY": PROXY}, PROXY),
    ("http under CGI", "http://h/x", {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None),
    ("no scheme", "https://h/x", {"HTTPS_PROXY": "p:3128"}, PROXY),
    ("with password", "https://h/x", {"HTTPS_PROXY": "http://u:w@p"}, "http://u:w@p"),
    ("all exempt", "https://h/x", {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
    ("host exempt", "https://h/x", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a, H ,b"}, None),
    ("domain exempt", "https://a.b.com/", {"HTTPS_PROXY": PROXY, "no_proxy": "b.com"}, None),
    ("dot exempt", "https://a.b.com/", {"HTTPS_PROXY": PROXY, "no_proxy": ".b.com"}, None),
    ("star exempt", "https://a.b.com/", {"HTTPS_PROXY": PROXY, "no_proxy": "*.b.com"}, None),
    ("no suffix of a word", "https://ab.com/", {"HTTPS_PROXY": PROXY, "no_proxy": "b.com"}, PROXY),
    ("port exempt", "https://h:8443/", {"HTTPS_PROXY": PROXY, "no_proxy": "h:8443"}, None),
    ("default port exempt", "https://h/", {"HTTPS_PROXY": PROXY, "no_proxy": "h:443"}, None),
    ("other port", "https://h:8443/", {"HTTPS_PROXY": PROXY, "no_proxy": "h:443"}, PROXY),
    ("network exempt", "http://10.1.2.3/", {"HTTP_PROXY": PROXY, "no_proxy": "10.0.0.0/8"}, None),
    ("other network", "http://11.1.2.3/", {"HTTP_PROXY": PROXY, "no_proxy": "10.0.0.0/8,x/y"}, PROXY),
    ("empty no_proxy", "https://h/", {"HTTPS_PROXY": PROXY, "no_proxy": " , "}, PROXY),
    ("localhost", "http://localhost:8000/", {"HTTP_PROXY": PROXY}, None),
    ("127.x", "http://127.0.0.9/", {"HTTP_PROXY": PROXY}, None),
    ("::1", "http://[::1]:8000/", {"HTTP_PROXY": PROXY}, None),
    ("simulator", "simulator:", {"HTTP_PROXY": PROXY, "SIMULATOR_PROXY": PROXY}, None),
    ("nothing", "https://h/", {}, None),
]


@each(("url", "env", "expected"), [case[1:] for case in PROXIED])
def test_the_proxy_of_the_environment_is_used(url: str, env: dict[str, str], expected: str | None) -> None:
    assert proxy_for(url, gateway(), env) == expected


def test_the_gateways_proxy_takes_precedence_even_for_loopback() -> None:
    env = {"HTTPS_PROXY": "http://q", "NO_PROXY": "*"}
    assert proxy_for("http://127.0.0.1/", gateway(proxy=PROXY), env) == PROXY
    assert proxy_for("https://h/", gateway(proxy="none"), {"HTTPS_PROXY": PROXY}) is None


@each(
    "value",
    [
        "socks5://u:hidden@p:1",
        "http://",
        "://hidden",
        "http://u:hidden@[p:1",
        "http://u:hidden@p:99999",
        "http://u:hidden@p:x",
        "http://u:hid/den@p:1",
    ],
)
def test_a_proxy_that_cannot_be_used_names_its_variable_not_its_value(value: str) -> None:
    with pytest.raises(SetupError, match="HTTPS_PROXY is not an http") as caught:
        proxy_for("https://h/", gateway(), {"HTTPS_PROXY": value})
    assert "hidden" not in str(caught.value)


def test_secrets_include_keys_in_use_and_proxy_credentials() -> None:
    env = {
        "MY_KEY": f" {KEY} ",
        "OTHER_KEY": "unused",
        "HTTPS_PROXY": "http://user:p%40ss-word@p:1",
        "HTTP_PROXY": "u:w2@p",
    }
    found = secrets_of([gateway(), gateway("none"), gateway()], env)
    assert Secret("MY_KEY", KEY) in found
    assert {(s.name, s.value) for s in found if "PROXY" in s.name} == {
        ("HTTPS_PROXY", "user:p@ss-word"), ("HTTPS_PROXY", "user:p%40ss-word"), ("HTTPS_PROXY", "p@ss-word"),
        ("HTTP_PROXY", "u:w2"), ("HTTP_PROXY", "w2"),
    }  # fmt: skip
    assert secrets_of([gateway("none")], {"MY_KEY": KEY}) == ()
    shown = Redactor(found).text("Proxy-Authorization: Basic dXNlcjpwQHNzLXdvcmQ=")
    assert "dXNlcjpwQHNzLXdvcmQ" not in shown
