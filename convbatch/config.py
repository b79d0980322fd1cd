"""What is asked and where: TOML file, presets and options → `Gateway`, `Target`, `Limits`.

Keys are named by their environment variable and never held here. What a limit does is `limiter.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from convbatch.dialogue import NO_SETTINGS, Settings
from convbatch.protocols.wire import Endpoint

TpmCounts = Literal["input", "input+max_output", "uncached_input"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `count` requests in any window of `window_s` seconds."""

    count: int
    window_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a quota owner may be asked; None = no limit known."""

    rpm: int | None = None
    tpm: int | None = None
    tpm_counts: TpmCounts = "input"
    rpd: int | None = None
    rpd_resets: str = "00:00 UTC"
    """Local time and IANA zone at which the day's count starts anew."""
    rates: tuple[Rate, ...] = ()
    """Further request windows; all limits hold."""
    concurrency: int | None = None
    """In flight at the gateway, on top of `-j`."""
    jitter_s: float = 1.0
    """By how much the one-way delay may vary without a window overflowing at the server (J of the derated rate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """Where models are served: one base URL, one protocol, one kind of auth."""

    name: str
    protocol: str
    base_url: str
    api_version: str | None = None
    auth: str = "bearer"
    """bearer | raw | x-goog-api-key | x-api-key | header:NAME | query:NAME | none."""
    key_env: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    proxy: str | None = None
    """Overrides HTTPS_PROXY / HTTP_PROXY."""
    ca_file: str | None = None
    allow_http: bool = False
    max_output_tokens_field: str | None = None
    attempt_timeout_s: float = 600.0
    limits: Limits = Limits()
    settings: Settings = NO_SETTINGS

    @property
    def endpoint(self) -> Endpoint:
        """The part a protocol needs."""
        return Endpoint(
            base_url=self.base_url,
            api_version=self.api_version,
            max_output_tokens_field=self.max_output_tokens_field,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model at a gateway; `gateway` already carries what its model table overrides."""

    model: str
    gateway: Gateway

    @property
    def name(self) -> str:
        """`model@gateway`."""
        return f"{self.model}@{self.gateway.name}"

    @property
    def quota_owner(self) -> tuple[str, str, str]:
        """Whose limits a request counts against: host, key variable, model."""
        return (urlsplit(self.gateway.base_url).netloc, self.gateway.key_env or "", self.model)

    @property
    def simulated(self) -> bool:
        """Is this the built-in simulator?"""
        return self.gateway.base_url.startswith("simulator:")
