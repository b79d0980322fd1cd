"""Laws of the word diff, and what it shows of texts in several scripts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from convbatch.comparison.diff_output import elided, marked
from convbatch.comparison.word_diff import Piece, word_diff, words
from tests.conftest import examples
from tests.support.tables import each

ALPHABET = st.sampled_from(
    [
        *"aab  \n\t.,'-…",
        "é",
        "e\u0301",
        "明",
        "天",
        "は",
        "ไ",
        "ท",
        "ย\u0e31",
        "한",
        "हि",
        "👩\u200d👧",
        "🇩🇪",
        "\r\n",
        "1",
        "\x1b",
        "\u202e",
    ]
)
TEXTS = st.lists(ALPHABET, max_size=30).map("".join)


@hypothesis_settings(max_examples=examples(2_000))
@given(TEXTS, TEXTS)
def test_a_diff_has_both_texts_and_joins_what_belongs_together(old: str, new: str) -> None:
    pieces = word_diff(old, new)
    assert "".join(text for op, text in pieces if op != "new") == old
    assert "".join(text for op, text in pieces if op != "old") == new
    assert all(text for _, text in pieces)
    for (one, _), (other, _) in pairwise(pieces):
        assert (one, other) in {("same", "old"), ("same", "new"), ("old", "new"), ("old", "same"), ("new", "same")}
    if old == new:
        assert pieces == ([Piece("same", old)] if old else [])


@given(st.text())
def test_the_words_of_a_text_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(text))


@given(TEXTS)
def test_no_combining_mark_or_joiner_begins_a_word(text: str) -> None:
    assert not [word for word in words(f"x{text}")[1:] if word[0] in "\u0301\u0e31\u200d"]


@each(
    ("old", "new", "shown"),
    [
        ("The capital is Paris.", "The capital is Madrid.", "The capital is [-Paris-]{+Madrid+}."),
        ("明天是12月27日。", "明天是12月28日。", "明天是12月[-27-]{+28+}日。"),
        ("我喜欢猫", "我很喜欢狗", "我{+很+}喜欢[-猫-]{+狗+}"),
        ("今日は晴れ", "今日は雨", "今日は[-晴れ-]{+雨+}"),
        ("안녕 세계", "안녕 친구", "안녕 [-세계-]{+친구+}"),
        ("ประเทศไทย", "ประเทศลาว", "ประเทศ[-ไทย-]{+ลาว+}"),
        ("It costs 3.50 USD", "It costs 3.60 USD", "It costs [-3.50-]{+3.60+} USD"),
        ("I don't know", "I can't know", "I [-don't-]{+can't+} know"),
        ("a b c d", "a x y d", "a [-b c-]{+x y+} d"),
        ("👩\u200d👧 ok", "👩\u200d👦 ok", "[-👩\u200d👧-]{+👩\u200d👦+} ok"),
        ("a b", "a  b", "a[- -]{+  +}b"),
        ("a\nb", "a\nb\n", "a\nb{+\n+}"),
        ("", "x", "{+x+}"),
        ("x", "", "[-x-]"),
        ("same", "same", "same"),
    ],
)
def test_what_is_shown(old: str, new: str, shown: str) -> None:
    assert marked(word_diff(old, new)) == shown


def test_very_long_texts_are_compared_by_lines() -> None:
    old = "\n".join(f"line {n} " + "x " * 40 for n in range(1_500))
    new = old.replace("line 700 ", "LINE 700 ").replace("line 1 ", "LINE 1 ").replace("line 1400 ", "LINE 1400 ")
    changed = [text for op, text in word_diff(old, new) if op == "new"]
    assert [text.split()[:2] for text in changed] == [["LINE", "1"], ["LINE", "700"], ["LINE", "1400"]]


@given(st.lists(st.tuples(st.sampled_from(("same", "old", "new")), st.integers(1, 900)), max_size=6))
def test_context_is_left_out_only_of_unchanged_parts(parts: list[tuple[str, int]]) -> None:
    pieces = word_diff(*("".join(op[0] * n for op, n in parts if op != other) for other in ("new", "old")))
    shown = [*elided(pieces)]
    assert [piece.op for piece in shown] == [piece.op for piece in pieces]
    assert all(one == other for one, other in zip(pieces, shown, strict=True) if one.op != "same")
    assert all(len(other.text) <= len(one.text) + 60 for one, other in zip(pieces, shown, strict=True))
