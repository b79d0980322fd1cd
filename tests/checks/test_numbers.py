"""Tests of the check `number`: notations of models, what cannot be read for sure, and properties of both."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convbatch.checks.numbers import UnsureNumber, last_number
from convbatch.checks.values import Verdict
from convbatch.dataset.schema import issues_of
from tests.checks.test_checks import input_of, verdict
from tests.support.tables import each

UNSURE = "unsure"


def read(text: str, **options: str) -> Decimal | str | None:
    try:
        return last_number(text, **options)
    except UnsureNumber:
        return UNSURE


FIELD = [  # reply, value, values that must not pass
    ("In total \\$3{,}600{,}000.", 3600000, [0, 3]),
    ("The sum is $\\boxed{7{,}250}$", 7250, [250, 7]),
    ("$15\\,300$ grams", 15300, [300, 15]),
    ("we need 4,\\!096 bytes", 4096, [96, 4]),
    ("$\\frac{2}{5}$ of them", 0.4, [2, 5]),
    ("a good 3 × 10^8 m/s", 300000000, [8, 10, 3]),
    ("You owe -$640", -640, [640]),
    ("净亏损-￥1,500", -1500, [1500, 500]),
    ("it was –12 °C", -12, [12]),
    ("₹4,50,000 a year", 450000, [0, 450, 50]),
    ("ca. 2.500.000 Einwohner", 2500000, [0, 2, 2500]),
    ("π约为3．1416", 3.1416, [1416, 3]),
    ("营收2亿", 200000000, [2]),
    ("That makes 61, all told", 61, [6]),
    ("$14.50", 14.5, [50, 14]),
    ("2.5e4", 25000, [2.5, 4]),
    ("7-9 days", 9, [-9, 7]),
    ("a share of 8 %", 8, [0.08]),
    ("1,024,000 rows", 1024000, [0, 1]),
    ("order B-77", 77, [-77]),
]
READ: list[tuple[str, Any]] = [
    ("So $\\boxed{9{,}500}$.", 9500),
    ("\\$1{,}200{,}000.", 1200000),
    ("In all $9\\,500$ grams", 9500),
    ("balance is -$1,200.", -1200),
    ("It is –5 °C", -5),
    ("结果是3．14", 3.14),
    ("2 x 4 paws, so 8.", 8),
    ("eight", None),
    ("It is 1,234.5 euros", 1234.5),
    ("1'000'000", 1000000),
    ("12\u202f345 m", 12345),
    ("零下就是 -40 度", -40),
    ("−40", -40),
    ("答案是负5。", -5),
    ("3-5", 5),
    ("order A-1047", 1047),
    ("一共１，２３４．５元", 1234.5),
    ("１２", 12),
    ("about .5", 0.5),
    ("2.5e3", 2500),
    ("明天是2025年12月27日。", 27),
    ("1\u202f234\u202f567", 1234567),
    ("2025-12-27", 27),
    ("Python 3.12", 3.12),
    ("the 5th", 5),
    ("1st", 1),
    ("100/month", 100),
    ("5%", 5),
    ("5\\%", 5),
    ("８％", 8),
    ("5 ‰", 5),
    ("5 million people", 5000000),
    ("$2.5 billion", 2500000000),
    ("2万", 20000),
    ("1.5万元", 15000),
    ("3亿人", 300000000),
    ("5百万", 5000000),
    ("3千", 3000),
    ("5千克", 5),
    ("3千米", 3),
    ("1万亿", 1000000000000),
    ("$-640", -640),
    ("-€5", -5),
    ("USD -5", -5),
    ("-USD 5", -5),
    ("USD500", 500),
    ("约USD500", 500),
    ("亏损-USD 500", -500),
    ("US$500", 500),
    ("-US$500", -500),
    ("R$ 50", 50),
    ("Rs.500", 500),
    ("Rs. 500", 500),
    ("500€", 500),
    ("7€-9€", 9),
    ("$7-$9", 9),
    ("7%-9%", 9),
    ("7–9 days", 9),
    ("7 - 9 days", 9),
    ("7~9天", 9),
    ("7 to 9", 9),
    ("minus 5", -5),
    ("negative 5 degrees", -5),
    ("－５", -5),
    ("﹣5", -5),
    ("净亏损-￥1,500", -1500),
    ("\\boxed{5}", 5),
    ("Answer\\boxed{5}", 5),
    ("\\boxed{-5}", -5),
    ("\\boxed{\\text{5}}", 5),
    ("\\boxed{5\\text{ km}}", 5),
    ("\\boxed{\\$5{,}000}", 5000),
    ("\\(5\\)", 5),
    ("\\[ 5 \\]", 5),
    ("$5$", 5),
    ("$-5$", -5),
    ("**42**", 42),
    ("*42*", 42),
    ("`42`", 42),
    ("_42_", 42),
    ("**-42**", -42),
    ("x = 5", 5),
    ("x=-5", -5),
    ("- 5 apples", 5),
    ("* 5 apples", 5),
    ("1. Paris", 1),
    ("area 25 m^2", 25),
    ("25 m²", 25),
    ("9.8 m/s^2", 9.8),
    ("25 cm^{2}", 25),
    ("90^\\circ", 90),
    ("90^{\\circ}", 90),
    ("90°", 90),
    ("9&nbsp;500", 9500),
    ("9\u200b500", 9500),
    ("1_000_000", 1000000),
    ("0.5", 0.5),
    ("1,000,000.00", 1000000),
    ("1e999999", '1E+999999'),
    ("2.5e-4", 0.00025),
    ("2.5e−4", 0.00025),
    ("...5", 5),
    ("No.5", 5),
    ("5!", 5),
    ("It costs $5! $3 less", 3),
    ("one thousand ($1,200) in all", 1200),
    ("1 grandchild", 1),
    ("2- and 3-year plans: 5", 5),
    ("EUR 5,--", 5),
    ("5 credits", 5),
    ("wages were raised to 5", 5),
    ("(5)", 5),
    ("[5]", 5),
    ("5,", 5),
    ("5;", 5),
    ("5。", 5),
    ("5, 6", 6),
    ("第3章", 3),
    ("百分之5", 5),
    ("答案是——12", 12),
    ("answer—12", 12),
    ("answer – 12", 12),
    ("\\approx 5", 5),
    ("x \\approx 5.2", 5.2),
    ("\\text{Total: }5", 5),
    ("4,\\!096", 4096),
    ("12\\text{,}500", 12500),
    ("9\\;500", 9500),
    ("5~\\text{km}", 5),
    ("5\\ \\text{km}", 5),
    ("5\\,\\mathrm{kg}", 5),
    ("5 \\, \\text{kg}", 5),
    ("١٢٣", 123),
    ("5 hundred", 500),
    ("3 dozen", 36),
    ("5 lakh", 500000),
    ("-5 million", -5000000),
    ("-$5 million", -5000000),
    ("5m long", 5),
    ("300 K", 300),
    ("in 2024 500 people", 500),
    ("答案：5", 5),
    ("答案:5", 5),
    ("Step 2: 5", 5),
    ("- $640 for rent", 640),
    ("+5", 5),
    ("≈5", 5),
    ("~5", 5),
    (">5", 5),
    ("3e8 m/s", 300000000),
    ("-.5", -0.5),
    ("$.50", 0.5),
    ("007", 7),
    ("5ft", 5),
    ("$3{,}600{,}000$", 3600000),
    ("about \\$5,000\\text{ USD}", 5000),
    ("-\\$5", -5),
    ("$-\\$5$", -5),
    ("−$5", -5),
    ("–€12", -12),
    ("1,234,567.89", 1234567.89),
    ("The answer is:\n\n-7", -7),
    ("\\alpha = 5", 5),
    ("so $\\cdots$ we get 5", 5),
    ("{5}", 5),
    ("{\"answer\": 5}", 5),
    ("3.142", 3.142),
    ("0.125", 0.125),
    ("[1, 2, 3]", 3),
    ("| 5 |", 5),
    ("f(5)", 5),
    ("1990s", 1990),
    ("5-year", 5),
    ("10am", 10),
    ("2-3 million", 3000000),
    ("1\u2009万", 10000),
    ("ticket PR-1024", 1024),
    ("GPT-4", 4),
    ("COVID-19", 19),
    ("\\frac{3}{4} = 0.75", 0.75),
]  # fmt: skip
REFUSED = [
    "It costs ₹12,34,567", "kostet 1.000.000 Euro", "$\\boxed{\\frac{3}{4}}$", "about 5 × 10^3 litres", "有3，400个",
    "1,2", "5 \\times 10^{8}", "3×10⁸", "x10^8", "3 x10^8", "3 · 10^8", "3*10**8", "10^-3", "10^{-3}",
    "10<sup>3</sup>", "1.234.567,89", "1 234 567", "1\u00a0234,5", "3/4", "8/10", "1/2 cup", "½", "2½", "2 ½",
    "10:30", "27.12.2025", "v1.2.3", "192.168.0.1", "$5M", "5k", "5K", "3 Mio. Euro", "2亿3000万", "100兆", "5만원",
    "7天-9天", "10 minus 5", "零下5度", "f(x)-5", "2x-5", "2x+5", "3+4", "3 + 4", "5 ± 0.2", "\\pm 5", "√16",
    "\\sqrt{16}", "2\\pi", "2π", "x_1", "x = - 5", "0x1F", "0xFF", "#FF5733", "H2O", "GPT4", "B2B", "1920x1080",
    "3 × 4", "5'10\"", "0,5", "1,234,56", "1234,567", "$1.234,00", "1e5.5", "end.5", "3分之1", "3成", "answer —12",
    "7 -9", "\\dfrac34", "\\frac{a}{b+5}", "3{,}5", "9~500", "2 million 500 thousand", "5 bn", "$5m", "12 345",
    "5:3", "is - $640", "--5", "2024年-2025年", "£1 234", "1 000", "\\log_2 8", "\\sqrt 16", "a_{5}", "5.000 Euro",
    "-(5)", "x = -\\left(5\\right)", "= - (5)", "$5!$", "\\boxed{5!}", "5 000\n", "5\n000", "5, 000", "5\u3000000",
    "₹500 Cr", "₹5 L",    "Net: ($1,200)", "Saldo: (1,200.00)", "1,200-", "1,200- €", "5i", "5 ribu", "5 triệu",
    "5 milyon", "5 mila", "5 लाख",
    "5 مليون",    "5 hundredths", "5 squared", "2 to the power of 5", "the square root of 16", "5 grand", "5 lacs",
    "5 °C below zero", "5 degrees below zero",
    "2.500 Einwohner", "5.125 €", "3万5千", "1\u2009234 567", "\\boxed{2x^{2}+5}", "10 000,50",
]  # fmt: skip
WITH_OPTIONS: list[tuple[str, dict[str, str], Any]] = [
    ("1.234.567,89", {"locale": "de"}, 1234567.89),
    ("12,34,567", {"locale": "in"}, 1234567),
    ("1.5", {"locale": "de"}, UNSURE),
    ("1,5", {"locale": "de"}, 1.5),
    ("1.234", {"locale": "de"}, 1234),
    ("1 234 567,89", {"locale": "de"}, UNSURE),
    ("1\u00a0234,5", {"locale": "de"}, 1234.5),
    ("4,50,000.5", {"locale": "in"}, 450000.5),
    ("10 km, not 12 miles", {"unit": "km"}, 10),
    ("$5 or 6 euros", {"unit": "$"}, 5),
    ("5 million", {"unit": "million"}, 5),
    ("2万元", {"unit": "元"}, 20000),
    ("5 min", {"unit": "m"}, None),
    ("8 %, 3 of them", {"unit": "%"}, 8),
    ("90 km/h", {"unit": "km"}, None),
    ("5 km, at 90 km/h", {"unit": "km"}, 5),
    ("25 m² or 3 m^2", {"unit": "m"}, None),
    ("90 km/h", {"unit": "km/h"}, 90),
    ("25 m^2", {"unit": "m^2"}, 25),
    ("25 m²", {"unit": "m^2"}, 25),
    ("5 €/kg", {"unit": "€"}, 5),
    ("5 USD/h", {"unit": "USD"}, 5),
    ("2.500", {"locale": "en"}, 2.5),
    ("1.234.567", {"locale": "de"}, 1234567),
    ("−12,5", {"locale": "de"}, -12.5),
    ("12.5", {"locale": "in"}, 12.5),
    ("1,000,000", {"locale": "in"}, 1000000),
    ("0,50 €", {"locale": "de", "unit": "€"}, 0.5),
]


def both(argument: Any, reply: str) -> tuple[Verdict, Verdict]:
    return verdict({"number": argument}, input_of(reply)), verdict({"not_number": argument}, input_of(reply))


@each(("reply", "value", "wrong"), FIELD)
def test_a_field_reply_is_read_or_refused_and_no_wrong_value_passes(reply: str, value: Any, wrong: list[Any]) -> None:
    assert read(reply) in (UNSURE, Decimal(str(value)))
    for other in wrong:
        plain, negated = both(other, reply)
        assert plain.passed is False
        assert negated.passed is (read(reply) != UNSURE)


@each(("reply", "value"), READ)
def test_a_number_is_read_in_the_notations_of_models(reply: str, value: Any) -> None:
    assert read(reply) == (None if value is None else Decimal(str(value)))


@each(("reply",), [(reply,) for reply in REFUSED])
def test_a_number_that_touches_what_is_not_understood_is_refused(reply: str) -> None:
    assert read(reply) == UNSURE


@each(("reply", "options", "value"), WITH_OPTIONS)
def test_locale_and_unit_decide_which_number_is_read(reply: str, options: dict[str, str], value: Any) -> None:
    assert read(reply, **options) == (value if value is None or value == UNSURE else Decimal(str(value)))


def test_a_number_that_cannot_be_read_for_sure_fails_both_ways_with_the_reason() -> None:
    for found in both(34567, "It costs ₹12,34,567"):
        assert (found.passed, found.score) == (False, 0.0)
        assert '"It costs ₹12,34,567" cannot be read for sure: its separators' in found.reason
        assert '"locale"' in found.reason
    assert both({"value": 1234567, "locale": "in"}, "It costs ₹12,34,567")[0].passed


def test_a_number_without_the_unit_of_the_check_is_no_number() -> None:
    plain, negated = both({"value": 5, "unit": "km"}, "5 miles")
    assert (plain.passed, negated.passed) == (False, True)
    assert 'no number with the unit "km"' in plain.reason


@each(
    ("argument", "words"),
    [
        ({"value": 5, "locale": "fr"}, "en, de, in"),
        ({"value": 5, "locale": ["de"]}, "en, de, in"),
        ({"value": 5, "unit": "5"}, "without digits"),
        ({"value": 5, "unit": ""}, "without digits"),
        ({"value": 5, "unit": 3}, "without digits"),
        ({"locale": "de"}, '"value" is required'),
        ({"value": 5, "currency": "EUR"}, "a number or"),
    ],
)
def test_an_invalid_argument_of_number_is_refused(argument: Any, words: str) -> None:
    [issue] = issues_of({"turns": [{"user": "x", "checks": [{"number": argument}]}]})
    assert words in str(issue.what)


def indian(digits: str) -> str:
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(end - 2, 0) : end] for end in range(len(head), 0, -2)][::-1]
    return ",".join([*pairs, tail])


def styled(number: int, style: str) -> str:
    """Write a number as the style says; `style` is a separator, or a name."""
    digits = f"{abs(number)}"
    groups = f"{abs(number):,}"
    wide = str.maketrans("0123456789,", "０１２３４５６７８９，")
    text = {"indian": indian(digits), "wide": groups.translate(wide), "plain": digits, "exponent": f"{digits}e0"}.get(
        style, groups.replace(",", style)
    )
    return ("-" if number < 0 else "") + text


SEPARATORS = [",", "{,}", "\\,", "\\;", "\\ ", ",\\!", "'", "’", "_", "\u00a0", "\u202f", "\u2009", " ", "&nbsp;", "~"]
STYLES = st.sampled_from([*SEPARATORS, "，", "٬", "indian", "wide", "plain", "exponent"])
WRAPS = st.sampled_from(
    [
        "{}", "${}$", "\\boxed{{{}}}", "$\\boxed{{{}}}$", "\\boxed{{\\text{{{}}}}}", "\\({}\\)", "**{}**", "`{}`",
        "({})", "{}.", "{},", "{} %", "{}\\%", "{} km", "{}\\text{{ km}}", "{}元", "是{}。", "x = {}", "{} €", "≈ {}",
        "\\mathrm{{{}}}",
    ]
)  # fmt: skip
SIGNS = st.sampled_from(["-", "−", "–", "﹣", "－", "-$", "−€", "-\\$", "$-", "-￥", "-USD "])


@given(st.integers(0, 10**12), STYLES, WRAPS, st.sampled_from(["", "So 7; ", "answer: ", "共"]))
def test_a_number_in_any_notation_is_read_back_or_refused(number: int, style: str, wrap: str, before: str) -> None:
    assert read(before + wrap.format(styled(number, style))) in (number, UNSURE)


@given(st.integers(1000, 10**12), st.sampled_from(SEPARATORS[:10]), WRAPS)
def test_a_number_in_a_common_notation_is_read_back(number: int, separator: str, wrap: str) -> None:
    assert read(wrap.format(styled(number, separator))) == number


@given(st.integers(1, 10**9), STYLES, SIGNS, st.sampled_from(["{}", "${}$", "\\boxed{{{}}}", "it is {} now", "亏损{}"]))
def test_a_negative_number_is_never_read_as_a_positive_one(number: int, style: str, sign: str, wrap: str) -> None:
    assert read(wrap.format(sign + styled(number, style))) in (-number, UNSURE)


@given(st.integers(10**6, 10**12), st.sampled_from(["", ",5", ",25"]), WRAPS)
def test_a_german_number_needs_its_locale(number: int, decimals: str, wrap: str) -> None:
    text = wrap.format(styled(number, ".") + decimals)
    assert read(text) == UNSURE
    assert read(text, locale="de") == Decimal(f"{number}{decimals.replace(',', '.')}")


@given(st.text(alphabet="0123456789.,'_-–−+$€%^{}\\ /:×xeE万亿frac２，．\u00a0", max_size=30))
def test_any_text_has_one_number_none_or_an_unsure_one(text: str) -> None:
    found = read(text)
    assert found is None or found == UNSURE or isinstance(found, Decimal)
