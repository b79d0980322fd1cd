"""Tests of who gets an answer from the page of a run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbatch.watching.access import new_token, refusal

TOKEN, PORT = "t" * 43, 4711
OWN = {"Host": f"127.0.0.1:{PORT}"}


def status(method: str = "GET", path: str = f"/{TOKEN}/state", **headers: str) -> int | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    found = refusal(method, path, OWN | named, token=TOKEN, port=PORT)
    return None if found is None else found.status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": f"LOCALHOST:{PORT}"},
        {"Origin": f"http://127.0.0.1:{PORT}", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_the_browser_that_knows_the_token_is_answered(headers: dict[str, str]) -> None:
    assert status(**headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": f"evil.example:{PORT}"},  # a name that was pointed at this machine
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{PORT + 1}"},
        {"Host": ""},
        {"Host": f"127.0.0.1:{PORT}.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_hosts_and_origins_are_refused_although_they_know_the_token(headers: dict[str, str]) -> None:
    assert status(**headers) == 403


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "get"])
def test_only_get_is_answered(method: str) -> None:
    assert status(method) == 405


@given(st.text(st.characters(codec=None)))
def test_no_other_path_is_answered(path: str) -> None:
    assert (status(path=path) is None) == (path.split("/")[:2] == ["", TOKEN])


@pytest.mark.parametrize(
    "path", ["/", "", "/state", f"/{TOKEN[:-1]}/state", f"/{TOKEN}x/", f"//{TOKEN}/", f"/./{TOKEN}/"]
)
def test_a_wrong_token_is_no_page(path: str) -> None:
    assert status(path=path) == 404


def test_tokens_are_long_and_differ() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) >= 43
