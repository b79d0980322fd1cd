"""Names that are suggested for a mistyped one: near, or absent."""

from __future__ import annotations

from convbatch.errors import nearest
from tests.support.tables import each

TURN = ("ask", "assistant", "checks", "settings", "user")
COMMANDS = ("run", "resume", "check", "show", "table", "compare", "doctor", "simulate")
GATEWAYS = ("anthropic", "dmxapi-openai", "openai", "simulator")
SETTINGS = ("max_output_tokens", "seed", "stop", "temperature", "top_k", "top_p")


@each(
    ("name", "known", "near"),
    [
        ("assert", TURN, None),
        ("answer", TURN, None),
        ("usr", TURN, "user"),
        ("score", COMMANDS, None),
        ("cache", COMMANDS, None),
        ("rnu", COMMANDS, "run"),
        ("Shwo", COMMANDS, "show"),
        ("nope", GATEWAYS, None),
        ("OpenAI", GATEWAYS, "openai"),
        ("\uff4fpenai ", GATEWAYS, "openai"),
        ("sim", GATEWAYS, "simulator"),
        ("max_tokens", SETTINGS, "max_output_tokens"),
        ("topP", SETTINGS, "top_p"),
        ("top-k", SETTINGS, "top_k"),
        ("replies", ("cost", "reply", "score"), "reply"),
        ("temp", SETTINGS, "temperature"),
    ],
)
def test_a_suggested_name_is_near_or_absent(name: str, known: tuple[str, ...], near: str | None) -> None:
    assert nearest(name, known) == near
