"""The last number written in a reply, in the notations that models use.

A text is first rewritten to one plain notation (LaTeX, full-width characters, HTML entities), then its last run of
digits is read. What stands directly around that run decides whether its value is certain: a wrong value is worse than
none, so a notation that this module does not know raises `UnsureNumber`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal

from convbatch.checks.safe_regex import CheckError, quote_excerpt
from convbatch.lazy_regex import lazy_regex

LOCALES = ("en", "de", "in")
"""How digits are grouped: `1,234.5`, `1.234,5`, `12,34,567.5`. Without a locale numbers are read as in `en`."""
_CONTEXT = 80
"""Characters around a number that can change its value."""
_THIN = "\u2009"
"""Every space that does not break a number, after the text is rewritten."""


class UnsureNumber(CheckError):
    """The last number is written in a way that can be read as more than one value, or that is not known."""


@dataclass(frozen=True, slots=True)
class _Token:
    """A run of digits with the marks inside it, and the text around it."""

    digits: str
    before: str
    after: str

    def unsure(self, why: str) -> UnsureNumber:
        around = quote_excerpt(f"{self.before[-20:]}{self.digits}{self.after[:20]}".replace(_THIN, " "))
        return UnsureNumber(f"the number in {around} cannot be read for sure: {why}")


def last_number(text: str, *, locale: str | None = None, unit: str | None = None) -> Decimal | None:
    """Return the last number written in digits; None when there is none.

    Args:
        text: The reply.
        locale: One of `LOCALES`; None reads as `en`.
        unit: Read the last number that has this unit directly before or after it.

    Raises:
        UnsureNumber: The number can be read as more than one value, or stands next to something not understood.
    """
    plain = _rewrite(text)
    unit = None if unit is None else _rewrite(f" {unit}").strip(" " + _THIN) or unit
    matches = list(_RUN.finditer(plain)) if unit else _last_match(plain)
    for match in reversed(matches):
        before = plain[max(match.start() - _CONTEXT, 0) : match.start()]
        token = _Token(match[0], before, plain[match.end() : match.end() + _CONTEXT])
        if unit is None or _has_unit(token, unit):
            return _value(token, locale, unit)
    return None


def _last_match(plain: str) -> list[re.Match[str]]:
    last = None
    for match in _RUN.finditer(plain):
        last = match
    return [] if last is None else [last]


# Rewriting a reply to one plain notation

_INVISIBLE = lazy_regex("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufe00-\ufe0f]")
_ENTITY = lazy_regex(r"&(?:#\d{1,7}|#x[\da-fA-F]{1,6}|[a-zA-Z]{2,10}\d{0,2});")
_HTML = ((lazy_regex(r"(?i)<sup>"), "^"), (lazy_regex(r"(?i)<sub>"), "_"))
_CHARACTERS = str.maketrans(
    {"﹣": "-", "－": "-", "−": "-", "‐": "-", "‑": "-", "‒": "–", "＋": "+", "﹢": "+", "％": "%", "﹪": "%"}
    | {"＄": "$", "﹩": "$", "￥": "¥", "￡": "£", "￦": "₩", "．": ".", "﹒": ".", "٫": ".", "٬": ",", "﹐": ","}
    | {"：": ":", "／": "/", "⁄": "/", "∕": "/", "＾": "^", "＊": "*", "＿": "_", "’": "'", "＇": "'", "ʼ": "'"}
    | {"＝": "=", "（": "(", "）": ")", "\t": " ", "Ｅ": "E", "ｅ": "e"}
)
_WIDE_COMMA = lazy_regex(r"(?<=[０-９])，(?=[０-９])")
_WIDE_DIGIT = lazy_regex(r"[^\x00-\x7f]")
_LATEX = (
    (lazy_regex(r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\(?:displaystyle|limits|big|Big)(?![a-zA-Z])"), ""),
    (lazy_regex(r"(?<![a-zA-Z])\{\s*([,.'])\s*\}"), r"\1"),
    (lazy_regex(r"\\!|\\/|\\allowbreak(?![a-zA-Z])|\{\}"), ""),
    (lazy_regex(r"(?<=\d)(?:\\[,;:>]|\\ |\\thinspace ?|\{\\,\})(?=\d)"), _THIN),
    (lazy_regex(r"(?<=\d)!(?=\s*(?:\}|\$(?!\d)|\\[)\]]))"), r"\\factorial "),
    (lazy_regex(r"\\[,;:> ]|\\(?:thinspace|quad|qquad|enspace|hspace\{[^{}]{0,20}\})(?![a-zA-Z])"), " "),
    (lazy_regex(r"\\([$%#&_])"), r"\1"),
    (lazy_regex(r"\\(?:[()\[\]]|\\)"), " "),
    (lazy_regex(r"\^\s*\{?\s*\\circ(?![a-zA-Z])\s*\}?|\\(?:degree|textdegree)(?![a-zA-Z])"), "°"),
    (lazy_regex(r"\\(?:euro|EUR|pounds)(?![a-zA-Z])"), "€"),
    (lazy_regex(r"\\mbox|\\fbox"), r"\\text"),
    (
        lazy_regex(
            r"\\(?:approx|sim|simeq|cong|equiv|to|implies|Rightarrow|rightarrow|longrightarrow|iff|therefore"
            r"|leq|geq|leqslant|geqslant|le|ge|lt|gt|neq|ne|colon|ldots|dots)(?![a-zA-Z])"
        ),
        " ≈ ",
    ),
)
_TEXT_COMMAND = lazy_regex(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|bf|it|sf|tt|normal)|bm|boldsymbol|operatorname|underline|num)"
    r"\s*\{([^{}]{0,400})\}"
)
_BOX = lazy_regex(r"\\boxed\s*\{([^{}]{0,4000})\}")
_UNIT_POWER = lazy_regex(r"(?<=[\d ])((?:[kcdmnµμ]?m|ft|in|yd|(?:k?m|ft)/[sh]))\^\{?([23])\}?(?![\d.,])")


def _rewrite(text: str) -> str:
    """Rewrite LaTeX, full-width and other Unicode notations of numbers to ASCII."""
    text = _INVISIBLE.sub("", text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    for pattern, plain in _HTML:
        text = pattern.sub(plain, text)
    text = _WIDE_COMMA.sub(",", text).translate(_CHARACTERS)
    text = _WIDE_DIGIT.sub(lambda found: _plain_character(found[0]), text)
    if "\\" in text or "{" in text or "!" in text:
        text = _rewrite_latex(text)
    return _UNIT_POWER.sub(lambda found: found[1] + ("²" if found[2] == "2" else "³"), text)


def _plain_character(character: str) -> str:
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    return _THIN if unicodedata.category(character) == "Zs" and character != "\u3000" else character


def _rewrite_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    for _ in range(6):
        before = text
        text = _TEXT_COMMAND.sub(lambda found: found[1] if found[1].strip() in (",", ".") else f"{found[1]} ", text)
        text = _BOX.sub(r" \1 ", text)
        if text == before:
            break
    return text


# Reading one number

_FRACTIONS = "¼-¾⅐-⅞↉"
_RUN = lazy_regex(rf"\d+(?:[,.'_{_THIN}]\d+)*(?:[eE][+-]?\d{{1,6}}(?![\w.]))?|[{_FRACTIONS}]")
_GROUPED = {
    "en": rf"[1-9]\d{{0,2}}(?:,\d{{3}})+|[1-9]\d{{0,2}}(?:'\d{{3}})+|[1-9]\d{{0,2}}(?:{_THIN}\d{{3}})+",
    "de": rf"[1-9]\d{{0,2}}(?:\.\d{{3}})+|[1-9]\d{{0,2}}(?:'\d{{3}})+|[1-9]\d{{0,2}}(?:{_THIN}\d{{3}})+",
}
_GROUPED["in"] = r"[1-9]\d?(?:,\d{2})*,\d{3}|" + _GROUPED["en"]
_UNDERSCORED = r"[1-9]\d{0,2}(?:_\d{3})+"
_NOTATION = {
    locale: lazy_regex(
        rf"(?:{_UNDERSCORED}|{grouped}|\d+)(?:{'[,]' if locale == 'de' else '[.]'}\d+)?(?:[eE][+-]?\d+)?"
    )
    for locale, grouped in _GROUPED.items()
}


def _value(token: _Token, locale: str | None, unit: str | None) -> Decimal:
    """Read a token with its sign and scale."""
    amount, before = _amount(token, locale)
    scaled = _scaled(token, amount, locale, unit)
    sign, before = _sign(token, before)
    _refuse_before(token, before, signed=bool(sign))
    if not sign and _is_booked(token, before):
        raise token.unsure("the brackets around an amount may mean that it is negative")
    return -scaled if sign == "-" else scaled


_GROUP_BEFORE = (
    (lazy_regex(r"(?:^|[^\d.])[1-9]\d{0,2}(?: \d{3})* $"), "spaces may group its digits"),
    (lazy_regex(r"\d，$"), "the comma may group its digits"),
    (lazy_regex(r"\d~$"), "the tilde may group its digits or mark a range"),
)
"""What stands before three digits that may be the last group of a longer number."""
_ABBREVIATION = lazy_regex(r"(?i)(?<![a-z])(?:rs|no|nr)\.$")


def _amount(token: _Token, locale: str | None) -> tuple[Decimal, str]:
    """Read the digits; returns the value with the text before them."""
    digits, before = token.digits, token.before
    if not digits[0].isdecimal():
        raise token.unsure("it is written as a fraction")
    _refuse_last_group(token)
    if not _NOTATION[locale or "en"].fullmatch(digits):
        raise token.unsure(f"its separators do not fit the notation {_EXAMPLES[locale or 'en']}" + _hint(locale))
    if locale is None and _may_be_thousands(token):
        raise token.unsure("the point may be a decimal mark or group its digits" + _hint(locale))
    mark = "," if locale == "de" else "."
    plain = re.sub(rf"[^\d{mark}eE+-]", "", digits).replace(",", ".")
    if before.endswith(mark) and not before.endswith(mark * 2) and not _ABBREVIATION.search(before):
        if re.search(r"[\w)\]}]\W$", before):
            raise token.unsure(f'"{mark}" directly before it may be a decimal mark')
        if not plain.isdecimal():
            raise token.unsure("it has two decimal marks")
        return Decimal(f"0.{plain}"), before[:-1]
    return Decimal(plain), before


def _refuse_last_group(token: _Token) -> None:
    """Refuse three digits that may be the last group of a number written with spaces."""
    if re.match(r"\d{3}(?!\d)", token.digits) is None:
        return
    for pattern, why in _GROUP_BEFORE:
        if pattern.search(token.before):
            raise token.unsure(why)
    if token.digits.startswith("0") and re.search(r"\d[,.]?\s{1,2}$", token.before):
        raise token.unsure("white space may group its digits")


def _may_be_thousands(token: _Token) -> bool:
    """Whether a point before three digits may group them: prices have two decimals, and few write a last zero."""
    if not re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", token.digits):
        return False
    money = re.match(rf"[ {_THIN}]?(?:[€£$¥]|(?i:euros?|eur|usd|dollars?)\b)", token.after) or _CURRENCY.search(
        token.before
    )
    return token.digits.endswith("0") or money is not None


_EXAMPLES = {"en": "1,234.5", "de": "1.234,5", "in": "12,34,567.5"}


def _hint(locale: str | None) -> str:
    return '; give "locale" in the check' if locale is None else ""


# What stands after a number

_POWERS = "⁰¹²³⁴-⁹⁺-⁽₀-₎"
_AFTER_UNSURE = (
    (lazy_regex(rf"[{_POWERS}]|\s?\^|\*\*\s?\d"), "an exponent or index follows it"),
    (lazy_regex(r"\s?\\[a-zA-Z]"), "a LaTeX command follows it"),
    (lazy_regex(r"\{"), "a brace follows it"),
    (lazy_regex(r"[π√∞]|\s[π√]"), "a symbol follows it"),
    (lazy_regex(rf"[ {_THIN}]?[{_FRACTIONS}]"), "a fraction follows it"),
    (lazy_regex(r"(?:[kKMBT]|bn|mn|mln|tn|tr|mm)(?![\w/²³])"), "the letters after it may multiply it"),
    (
        lazy_regex(
            r"(?i)[ \u2009-]?(?:mio|mrd|mld|mln|bn|mn|millionen|milliarden?|billionen?|tausend|milliards?|millones"
            r"|milhões|milhão|millón|mille?|mil|тыс|млн|млрд|миллион\w*|миллиард\w*|тысяч\w*)(?![^\W\d_])"
        ),
        "the word after it multiplies it",
    ),
    (
        lazy_regex(
            r"(?i)[ \u2009]?(?:crs?|lacs?|tys|tisíce?|ezer|millió\w*|milliárd\w*|mila|milion[ei]|miliard[iyoa]?"
            r"|milion[yů]?|milyon|milyar|bilhões|bilhão|trilhões|billones|billions de|ribu|juta|miliar|triliun"
            r"|nghìn|ngàn|vạn|triệu|tỷ|tỉ|พัน|หมื่น|แสน|ล้าน|ألف|آلاف|مليون|ملايين|مليار|हज़ार|हजार|लाख|करोड़|करोड़|अरब|grand)(?![^\W\d_])"
        ),
        "the word after it multiplies it",
    ),
    (
        lazy_regex(
            r"(?i)[ -](?:thirds|fifths|sixths|sevenths|eighths|ninths|(?:ten|hundred|thousand|million|billion)ths?)\b"
            r"|[ -]?(?:squared|cubed)\b"
        ),
        "the word after it changes it",
    ),
    (
        lazy_regex(
            r"(?i)[ \u2009]?(?:° ?[CF]?|degrees?(?: celsius| fahrenheit)?|grad)? (?:below|under|unter) (?:zero|null)"
        ),
        "the words after it make it negative",
    ),
    (lazy_regex(r"[ij](?!\w)"), "the letter after it may make it imaginary"),
    (lazy_regex(r"-(?=[ \t]*(?:[)|€$£¥₹]|\n|$))"), "the sign after it may belong to it"),
    (lazy_regex(r" [만억](?=[\s원명개]|$)"), "the character after it may multiply it"),
    (lazy_regex(r"[만억천백조]|\s?兆|\s?成(?!\w*员)|十"), "the character after it may multiply it"),
)
_WORD_SCALES = {
    "hundred": Decimal(100),
    "thousand": Decimal(1000),
    "lakh": Decimal(10**5),
    "million": Decimal(10**6),
    "crore": Decimal(10**7),
    "billion": Decimal(10**9),
    "trillion": Decimal(10**12),
    "dozen": Decimal(12),
}
_WORD_SCALE = lazy_regex(rf"(?i)[ {_THIN}-]{{0,2}}({'|'.join(_WORD_SCALES)})s?(?![^\W\d_])")
_HAN_SCALES = {"百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_HAN_SCALE = lazy_regex(rf"[ {_THIN}]?((?!千[克米瓦卡帕赫焦伏安字比牛升公])[百千万萬亿億]+)(?![分]之)")


def _scaled(token: _Token, amount: Decimal, locale: str | None, unit: str | None) -> Decimal:
    """Multiply by the scale word or character after the digits."""
    after = token.after
    if token.digits == "0" and re.match(r"[xXoObB][0-9a-fA-F]", after):
        raise token.unsure("it may be a hexadecimal, octal or binary number")
    if unit is not None and _unit_follows(after, unit):
        return amount
    for pattern, why in _AFTER_UNSURE:
        if pattern.match(after):
            raise token.unsure(why)
    if re.match(r" ?[mMkKbBTL](?![\w/²³])", after) and re.search(r"[$€£¥₹] ?-?$", token.before):
        raise token.unsure("the letter after it may multiply it")
    if (word := _WORD_SCALE.match(after)) is not None:
        if locale == "de" or _WORD_SCALE.match(after[word.end() :]):
            raise token.unsure("the words after it multiply it")
        return amount * _WORD_SCALES[word[1].lower()]
    return _han_scaled(token, amount)


def _han_scaled(token: _Token, amount: Decimal) -> Decimal:
    if (found := _HAN_SCALE.match(token.after)) is None:
        return amount
    if len(found[1]) > 2 or (len(found[1]) == 2 and _HAN_SCALES[found[1][0]] > _HAN_SCALES[found[1][1]]):
        raise token.unsure("the characters after it multiply it")
    if re.match(r"[零一二三四五六七八九两半]", token.after[found.end() :]):
        raise token.unsure("a numeral follows it")
    for character in found[1]:
        amount *= _HAN_SCALES[character]
    return amount


# What stands before a number

_CODES = "USD|EUR|GBP|JPY|CNY|RMB|INR|CHF|CAD|AUD|HKD|TWD|KRW|SGD|NZD|SEK|NOK|DKK|PLN|BRL|RUB|MXN|ZAR"
_CURRENCY = lazy_regex(
    rf"(?:(?:(?<![a-zA-Z])(?:US|HK|NT|CA|AU|NZ|MX|S|A|C|R))?\$+|[€£¢¥₠-⃀฿]|(?<![a-zA-Z])(?:{_CODES}|Rs\.?))[ {_THIN}]?$"
)
_DASH = "-–—+"
_NEGATIVE_WORD = lazy_regex(r"(?i)(?:(?<![a-z])(?:minus|negative)[ -]|[负負])$")
_MULTIPLIER = "百千万萬亿億"
_BEFORE_UNSURE = (
    (lazy_regex(r"[~≈=]?\^\s?[{(]?$"), "it is an exponent"),
    (lazy_regex(r"\\[a-zA-Z]+\*?\s?(?:\[[^\[\]]*\])?(?:\{[^{}]*\})*\{[^{}\\]*$"), "it belongs to a LaTeX command"),
    (lazy_regex(r"\\[a-zA-Z]+(?:_[^\s{}]{1,10})?\s?[(|]?\s?$"), "it belongs to a LaTeX command"),
    (lazy_regex(r"\}[ ]?$|\}\{[^{}]*$"), "a brace stands before it"),
    (lazy_regex(r"[\w)\]}%°] ?[/÷⋅·∙×✕] ?[({]?$|\d ?[xX*] ?$|\*\*$(?<=\d\*\*)"), "it is part of a fraction or product"),
    (lazy_regex(r"\d ?[(]?\+ ?$"), "it is part of a sum"),
    (lazy_regex(r"[-–][(|]$|[=:(\[≈<>,$] ?[-–] \($"), "the sign before its bracket may belong to it"),
    (
        lazy_regex(r"(?i)\b(?:to the power(?: of)?|square root of|root of|sqrt ?\(?) ?$"),
        "it is part of a power",
    ),
    (lazy_regex(r"[/÷]$"), "a slash stands before it"),
    (lazy_regex(r"\d ?:$|\d : $"), "it is part of a time or a ratio"),
    (lazy_regex(r"[±∓√∛∜] ?$"), "a symbol before it changes it"),
    (lazy_regex(r"(?<!百)分之$|零下 ?$|千分之$"), "the words before it change it"),
    (lazy_regex(rf"[{_POWERS}{_FRACTIONS}]$"), "a symbol stands before it"),
    (lazy_regex(rf"\d ?[{_MULTIPLIER}]+[零多余]? ?$"), "it continues the number before it"),
    (lazy_regex(rf"(?i)\d[ -]?(?:{'|'.join(_WORD_SCALES)})s?,? (?:and )?$"), "it continues the number before it"),
    (lazy_regex(r"[^\W\d_]_\{?$"), "it is the index of a name"),
)


def _sign(token: _Token, before: str) -> tuple[str, str]:
    """Return the sign before a number or its currency, and the text before both."""
    if (word := _NEGATIVE_WORD.search(before)) is not None:
        if re.search(r"[\d)] ?$", before[: word.start()]):
            raise token.unsure("a word before it may subtract it")
        return "-", before[: word.start()]
    rest = before
    if (currency := _CURRENCY.search(before)) is not None:
        rest = before[: currency.start()]
    elif (inner := re.search(rf"[{_DASH}]$", before)) is not None:
        outer = _CURRENCY.search(before[:-1])
        if outer is not None and not re.search(rf"\d ?{re.escape(outer[0])}$", before[:-1]):
            rest = before[: outer.start()]
            if re.search(rf"[{_DASH}] ?$", rest):
                raise token.unsure("it has two signs")
            return _sign_of(token, inner[0], "", rest)
    if not rest or rest[-1] not in _DASH:
        _refuse_spaced_sign(token, rest)
        return "", rest
    return _sign_of(token, rest[-1], rest[:-1], rest[:-1], currency=currency is not None)


_SUBTRACTS = (
    lazy_regex(r"\d[a-zA-Z]$|[)\]}^/]$|[\^/][({]$"),
    lazy_regex(r"(?:^|[^\d])\d+(?:[.,]\d+)? $"),
)
"""What a sign touches when it may be an operator."""
_RANGE = lazy_regex(r"\d$|\d ?[%‰°€$£¥₹℃℉]+[CF]?$|[^\W\d_]$")
_HAN_RANGE = lazy_regex(r"\d[^\x00-\u2e7f]{1,3}$")


def _sign_of(token: _Token, mark: str, left: str, rest: str, *, currency: bool = False) -> tuple[str, str]:
    """Decide whether a mark directly before a number is its sign or a dash; `left` is what the mark touches."""
    if left.endswith(tuple(_DASH)):
        if mark != "-" and left[-1] == mark:
            return "", ""
        raise token.unsure("it has two signs")
    touches_letter = _is_cased_letter(left[-1:])
    if any(pattern.search(left) for pattern in _SUBTRACTS) or (currency and touches_letter):
        raise token.unsure("the sign before it may subtract it")
    if _HAN_RANGE.search(left):
        raise token.unsure("the sign before it may mark a range")
    if _RANGE.search(left) and (touches_letter or not left[-1].isalpha()):
        if mark == "+":
            raise token.unsure("it is part of a sum")
        return "", ""
    if mark == "—":
        raise token.unsure("the dash before it may be a minus sign")
    return ("+" if mark == "+" else "-"), rest


def _refuse_spaced_sign(token: _Token, before: str) -> None:
    """Refuse a minus sign that a space separates from its number; a dash in a sentence or a list is none."""
    if re.search(r"[=(\[≈<>:,$] ?[-–] $", before):
        raise token.unsure("the sign before it may belong to it")
    if re.search(r"[-–] $", before) and re.search(r"[$€£¥₹] ?$", token.before) and re.search(r"\w [-–] $", before):
        raise token.unsure("the sign before it may belong to it")


def _is_booked(token: _Token, before: str) -> bool:
    """Whether an amount stands alone in brackets, as losses do in accounts: `Net: ($1,200)`."""
    if not token.after.startswith(")"):
        return False
    if before != token.before:  # a currency sign is in the brackets
        return re.search(r"(?:^|[\n:=|])[ *_]*\([ ]?$", before) is not None
    is_amount = re.search(r",\d{3}|\.\d\d$", token.digits) is not None
    return is_amount and re.search(r"[:=|][ *_]*\([ ]?$", before) is not None


def _refuse_before(token: _Token, before: str, *, signed: bool) -> None:
    for pattern, why in _BEFORE_UNSURE:
        if pattern.search(before):
            raise token.unsure(why)
    if not signed and before and before == token.before and _is_cased_letter(before[-1]):
        raise token.unsure("letters touch it")


def _is_cased_letter(character: str) -> bool:
    return character.isalpha() and character.lower() != character.upper()  # not Chinese, Thai …


# Units


def _has_unit(token: _Token, unit: str) -> bool:
    before = token.before.rstrip(_THIN + " " + _DASH)
    precedes = before.endswith(unit) and not (_is_cased_letter(unit[0]) and before[: -len(unit)][-1:].isalpha())
    if precedes or _unit_follows(token.after, unit):
        return True
    scale = _WORD_SCALE.match(token.after) or _HAN_SCALE.match(token.after)
    return scale is not None and _unit_follows(token.after[scale.end() :], unit)


def _unit_follows(after: str, unit: str) -> bool:
    after = after.lstrip(_THIN + " -")
    rest = after[len(unit) :]
    per = r"|/[^\W\d_]" if unit[-1].islower() else ""  # km/h is no length, but €/kg is a price
    if not after.startswith(unit) or re.match(rf"[²³^]|\*\*{per}", rest):
        return False
    return not (_is_cased_letter(unit[-1]) and rest[:1].isalpha() and rest[:1].isascii())
