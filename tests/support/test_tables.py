"""`each` fails with every row that fails, and passes fixtures through."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tables import each


def test_every_failing_row_is_reported() -> None:
    @each(("number", "known"), [(1, "odd"), (2, "odd"), (3, "even"), pytest.param(4, "even", id="four")])
    def check(number: int, known: str) -> None:
        if number == 3:
            with pytest.raises(ValueError, match="no"):
                pass
        assert ("odd" if number % 2 else "even") == known

    with pytest.raises(BaseExceptionGroup, match="2 of 4 rows failed") as caught:
        check()
    notes = [failure.__notes__ for failure in caught.value.exceptions]
    assert notes == [["row: {'number': 2, 'known': 'odd'}"], ["row: {'number': 3, 'known': 'even'}"]]


@each("one", "ab")
@each("other", "cd")
def test_tables_combine_and_share_fixtures(one: str, other: str, tmp_path: Path) -> None:
    (tmp_path / f"{one}{other}").touch(exist_ok=False)
    if (one, other) == ("b", "d"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ac", "ad", "bc", "bd"]


def test_a_table_has_rows() -> None:
    with pytest.raises(AssertionError, match="without rows"):
        each("row", [])
