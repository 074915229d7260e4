"""Settings: read once from the environment, typed, and refused by name when they are wrong."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

PREFIX = "CARTSVC_"


class SettingError(ValueError):
    """A setting that can't be used: names the variable, its value and what was expected."""


def _setting(
    default: Any,
    doc: str,
    *,
    at_least: float | None = None,
    at_most: float = sys.maxsize,
    secret: bool = False,
) -> Any:
    bounds = None if at_least is None else (at_least, at_most)
    metadata = {"doc": doc, "bounds": bounds, "secret": secret}
    return field(default=default, metadata=metadata, repr=not secret)


MAX_HOLD_TTL_S = 7 * 86_400
"""Longest that a cart may hold units, in seconds."""

_MAX_OUTCOME_TTL_S = 365 * 86_400
"""Redis refuses a TTL that is too long, and a script that keeps an outcome has changed the cart."""

JWT_KEYS = ("jwt_secret", "jwt_public_key_file", "jwt_jwks_file")
"""What tokens can be verified with: whoever verifies needs exactly one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One value a field; field `redis_url` is read from `CARTSVC_REDIS_URL`."""

    host: str = _setting("127.0.0.1", "address the API listens on")
    port: int = _setting(8000, "port the API listens on", at_least=1, at_most=65_535)
    redis_url: str = _setting("redis://127.0.0.1:6379/0", "Redis >= 7.0 or Valkey", secret=True)
    database_url: str = _setting(
        "postgresql://postgres@127.0.0.1:5432/cartsvc", "PostgreSQL >= 14, in UTF8", secret=True
    )
    jwt_secret: str = _setting(
        "",
        "secret that tokens are signed and verified with (HS256); `cartsvc token` needs it",
        secret=True,
    )
    jwt_public_key_file: str = _setting(
        "", "instead of the secret, a PEM file: an RSA (RS256) or P-256 (ES256) public key"
    )
    jwt_jwks_file: str = _setting(
        "", "instead of both, a JWKS file of such keys; a token names one by its `kid`"
    )
    jwt_issuer: str = _setting("", "the `iss` that tokens must have; any or none if not set")
    jwt_audience: str = _setting("", "the `aud` that tokens must have; any or none if not set")
    tenant: str = _setting("default", "tenant of the contracts that name none")
    currency: str = _setting("USD", "the one currency of prices, an ISO 4217 code")
    max_lines: int = _setting(50, "distinct lines a cart may hold", at_least=1, at_most=1_000)
    stock_policy: str = _setting(
        "check", "stock of products that say nothing else: check, hold or untracked"
    )
    hold_ttl_s: int = _setting(
        600, "seconds for which such products are held", at_least=1, at_most=MAX_HOLD_TTL_S
    )
    sold_out_memory_ms: int = _setting(
        1_000,
        "how long a process remembers that all units of a held product are taken; 0: not",
        at_least=0,
        at_most=1_000,
    )
    idempotency_ttl_s: int = _setting(
        86_400,
        "how long the answer to an Idempotency-Key is kept, in seconds",
        at_least=1,
        at_most=_MAX_OUTCOME_TTL_S,
    )
    idempotency_keys: int = _setting(
        1_000, "keys that one shopper may use in that time; past it 429", at_least=1
    )
    guest_carts_per_s: int = _setting(
        0,
        "carts that guests may begin in a second from one address; past it 429; 0: however many",
        at_least=0,
    )
    trusted_proxies: str = _setting(
        "",
        "addresses and networks, by commas, whose `X-Forwarded-For` says where a request is from; "
        "nobody's if not set",
    )
    max_body_bytes: int = _setting(65_536, "largest request body", at_least=1)
    max_head_bytes: int = _setting(
        16_384, "largest request line and headers together; past it 431", at_least=1_024
    )
    request_timeout_s: float = _setting(
        10.0,
        "longest time for a request to arrive, then 408; and for its answer to be read",
        at_least=0.01,
    )
    keep_alive_s: int = _setting(
        5,
        "how long a connection without a request is kept; longer than by the proxy before it",
        at_least=1,
    )
    max_connections: int = _setting(
        4_096,
        "connections of an API process; past it one without a request gives way, or else 503",
        at_least=1,
    )
    admin: int = _setting(1, "1: serve `/admin`, for service tokens; 0: not", at_least=0, at_most=1)
    redis_timeout_s: float = _setting(
        0.8,
        "longest wait for a script in a request, and for releasing holds; then 503",
        at_least=0.01,
    )
    redis_in_flight: int = _setting(
        4_096, "scripts of an API process that may wait for Redis at once; past it 503", at_least=1
    )
    durability: str = _setting(
        "memory",
        "when a change is acknowledged: `memory`, once Redis has made it; `fsync`, once Redis's "
        "append-only file is synced too, within three seconds more; then 503",
    )
    max_dirty_age_s: int = _setting(
        14_400,
        "carts take no changes (503) while one waits for PostgreSQL for longer, in seconds; "
        "0: whatever waits",
        at_least=0,
    )
    max_price_events: int = _setting(
        1_000_000,
        "nor while more price changes than these wait for it; 0: however many",
        at_least=0,
    )
    max_memory_percent: int = _setting(
        90,
        "nor while Redis uses more of its `maxmemory`, if it has one; 0: however much",
        at_least=0,
        at_most=100,
    )
    database_timeout_s: float = _setting(
        5.0, "longest wait for PostgreSQL in a request, which few need; then 503", at_least=0.01
    )
    flush_interval_s: float = _setting(1.0, "pause between the worker's passes", at_least=0.01)
    flush_batch: int = _setting(500, "carts, or price changes, a transaction", at_least=1)
    cool_after_s: int = _setting(
        86_400,
        "idle carts leave Redis for PostgreSQL after so long, in seconds; 0: never",
        at_least=0,
    )
    abandon_after_s: int = _setting(
        2_592_000,
        "guests' idle carts become ABANDONED after so long, in seconds; 0: never",
        at_least=0,
    )
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR; DEBUG tells of every request")
    log_format: str = _setting("console", "console, for people, or json, an object a line")

    def __post_init__(self) -> None:
        for name, pattern, expected in _SHAPES:
            if not re.fullmatch(pattern, getattr(self, name)):
                raise SettingError(f"{self._told(name)} is not {expected}")
        for name in ("redis_url", "database_url"):
            try:
                _ = urlsplit(getattr(self, name)).port
            except ValueError as error:
                raise SettingError(f"{self._told(name)} has no usable host and port") from error

        self._check_proxies()

    def _check_proxies(self) -> None:
        for proxy in self.trusted_proxies.split(",") if self.trusted_proxies else ():
            try:
                ip_network(proxy.strip())
            except ValueError:
                told = self._told("trusted_proxies")
                raise SettingError(f"{told} is not addresses and networks, by commas") from None

    def jwt_keys(self) -> list[str]:
        """Those of JWT_KEYS that are set."""
        return [name for name in JWT_KEYS if getattr(self, name)]

    def _told(self, name: str) -> str:
        """Variable and value, but not a value that is not for a terminal or a log."""
        if self.__dataclass_fields__[name].metadata["secret"]:
            return f"{variable(name)}:"
        return f"{variable(name)}: {getattr(self, name)!r}"


# HS256 is as strong as its key is long (RFC 7518, 3.2).
MIN_SECRET_CHARACTERS = 32

# Braces and colons would move the hash tag of every key of the tenant.
TENANT_PATTERN = r"[A-Za-z0-9_-]{1,64}"

_SHAPES = (
    ("tenant", TENANT_PATTERN, "a tenant id (letters, digits, _ and -, at most 64)"),
    ("currency", r"[A-Z]{3}", "a currency code of three capital letters"),
    ("stock_policy", r"check|hold|untracked", "check, hold or untracked"),
    ("durability", r"memory|fsync", "memory or fsync"),
    ("log_level", r"DEBUG|INFO|WARNING|ERROR", "DEBUG, INFO, WARNING or ERROR"),
    ("log_format", r"console|json", "console or json"),
    (
        "jwt_secret",
        rf"(?s)([^\ud800-\udfff]{{{MIN_SECRET_CHARACTERS},}})?",
        f"a text of at least {MIN_SECRET_CHARACTERS} characters",
    ),
    ("redis_url", r"(redis|rediss|unix)://\S+", "a redis://, rediss:// or unix:// URL"),
    ("database_url", r"postgres(ql)?://\S+", "a postgresql:// URL"),
)

_KINDS = {int: "a whole number", float: "a number"}


def variable(name: str) -> str:
    """Name of the environment variable that sets field `name`."""
    return PREFIX + name.upper()


def read(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environ` (the process's own when None); a variable left empty is not set.

    Raises:
        SettingError: for the first variable that has the wrong form.
    """
    environ = os.environ if environ is None else environ
    values = {}
    for setting in fields(Settings):
        text = environ.get(variable(setting.name), "")
        if text:
            values[setting.name] = _parse(setting.name, text)
    return Settings(**values)


def _parse(name: str, text: str) -> Any:
    setting = Settings.__dataclass_fields__[name]
    kind: type[Any] = type(setting.default)
    try:
        value = kind(text)
    except ValueError:
        raise SettingError(f"{variable(name)}: {text!r} is not {_KINDS[kind]}") from None
    if setting.metadata["bounds"] is not None:
        least, most = setting.metadata["bounds"]
        if not least <= value <= most:
            raise SettingError(f"{variable(name)}: {text!r} is not between {least} and {most}")
    return value
