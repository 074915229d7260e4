"""Settings: each by its variable, and a wrong one refused by that name."""

from dataclasses import fields

import pytest

from cartsvc import settings
from cartsvc.settings import SettingError, Settings

SECRET = "not-for-a-terminal-or-a-log-at-all"

READABLE = {
    "CARTSVC_HOST": ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - nothing listens there
    "CARTSVC_PORT": ("9000", 9000),
    "CARTSVC_REDIS_URL": ("rediss://redis.example.com:6380/1",) * 2,
    "CARTSVC_DATABASE_URL": ("postgres://cart@db.example.com/cart",) * 2,
    "CARTSVC_JWT_SECRET": (SECRET, SECRET),
    "CARTSVC_JWT_PUBLIC_KEY_FILE": ("keys/issuer.pem",) * 2,
    "CARTSVC_JWT_JWKS_FILE": ("keys/jwks.json",) * 2,
    "CARTSVC_JWT_ISSUER": ("https://id.example.com/",) * 2,
    "CARTSVC_JWT_AUDIENCE": ("cart",) * 2,
    "CARTSVC_TENANT": ("acme_2-eu", "acme_2-eu"),
    "CARTSVC_CURRENCY": ("EUR", "EUR"),
    "CARTSVC_MAX_LINES": ("7", 7),
    "CARTSVC_STOCK_POLICY": ("hold", "hold"),
    "CARTSVC_HOLD_TTL_S": ("120", 120),
    "CARTSVC_GUEST_CARTS_PER_S": ("5", 5),
    "CARTSVC_TRUSTED_PROXIES": ("10.0.0.1, 10.1.0.0/16,fd00::/8",) * 2,
    "CARTSVC_MAX_BODY_BYTES": ("1024", 1024),
    "CARTSVC_MAX_HEAD_BYTES": ("8192", 8192),
    "CARTSVC_REQUEST_TIMEOUT_S": ("2.5", 2.5),
    "CARTSVC_KEEP_ALIVE_S": ("75", 75),
    "CARTSVC_MAX_CONNECTIONS": ("100", 100),
    "CARTSVC_ADMIN": ("0", 0),
    "CARTSVC_REDIS_TIMEOUT_S": ("0.25", 0.25),
    "CARTSVC_SOLD_OUT_MEMORY_MS": ("0", 0),
    "CARTSVC_IDEMPOTENCY_TTL_S": ("3600", 3600),
    "CARTSVC_IDEMPOTENCY_KEYS": ("20", 20),
    "CARTSVC_REDIS_IN_FLIGHT": ("3", 3),
    "CARTSVC_DURABILITY": ("fsync", "fsync"),
    "CARTSVC_MAX_DIRTY_AGE_S": ("600", 600),
    "CARTSVC_MAX_PRICE_EVENTS": ("0", 0),
    "CARTSVC_MAX_MEMORY_PERCENT": ("75", 75),
    "CARTSVC_DATABASE_TIMEOUT_S": ("2.5", 2.5),
    "CARTSVC_FLUSH_INTERVAL_S": ("2", 2.0),
    "CARTSVC_FLUSH_BATCH": ("20", 20),
    "CARTSVC_COOL_AFTER_S": ("0", 0),
    "CARTSVC_ABANDON_AFTER_S": ("0", 0),
    "CARTSVC_LOG_FORMAT": ("json", "json"),
    "CARTSVC_LOG_LEVEL": ("DEBUG", "DEBUG"),
}


@pytest.mark.parametrize("name", [setting.name for setting in fields(Settings)])
def test_a_setting_is_read_from_its_variable(name: str) -> None:
    variable = f"CARTSVC_{name.upper()}"
    text, value = READABLE[variable]
    read = getattr(settings.read({variable: text}), name)
    assert (type(read), read) == (type(value), value)
    assert read != getattr(Settings(), name)


def test_what_is_not_set_has_its_default() -> None:
    assert settings.read({}) == Settings()


def test_an_empty_variable_is_not_set() -> None:
    assert settings.read(dict.fromkeys(READABLE, "")) == Settings()


def test_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARTSVC_PORT", "9000")
    assert settings.read().port == 9000


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CARTSVC_PORT", "http"),
        ("CARTSVC_PORT", "80.5"),
        ("CARTSVC_PORT", "-1"),
        ("CARTSVC_PORT", "65536"),
        ("CARTSVC_REDIS_URL", "127.0.0.1:6379"),
        ("CARTSVC_REDIS_URL", "http://127.0.0.1:6379"),
        ("CARTSVC_DATABASE_URL", "mysql://127.0.0.1/cart"),
        ("CARTSVC_DATABASE_URL", "postgresql://"),
        ("CARTSVC_TENANT", "ac{me"),
        ("CARTSVC_TENANT", "ac}me"),
        ("CARTSVC_TENANT", "ac:me"),
        ("CARTSVC_TENANT", "acme\n"),
        ("CARTSVC_TENANT", "äcme"),
        ("CARTSVC_TENANT", "a" * 65),
        ("CARTSVC_CURRENCY", "usd"),
        ("CARTSVC_CURRENCY", "USDT"),
        ("CARTSVC_MAX_LINES", "0"),
        ("CARTSVC_MAX_BODY_BYTES", "1e6"),
        ("CARTSVC_MAX_HEAD_BYTES", "1023"),
        ("CARTSVC_REQUEST_TIMEOUT_S", "0"),
        ("CARTSVC_KEEP_ALIVE_S", "0"),
        ("CARTSVC_MAX_CONNECTIONS", "0"),
        ("CARTSVC_REDIS_TIMEOUT_S", "nan"),
        ("CARTSVC_REDIS_TIMEOUT_S", "inf"),
        ("CARTSVC_ADMIN", "2"),
        ("CARTSVC_ADMIN", "true"),
        ("CARTSVC_REDIS_TIMEOUT_S", "0"),
        ("CARTSVC_REDIS_TIMEOUT_S", "fast"),
        ("CARTSVC_REDIS_IN_FLIGHT", "0"),
        ("CARTSVC_IDEMPOTENCY_TTL_S", "9223372036854775807"),
        ("CARTSVC_DURABILITY", "disk"),
        ("CARTSVC_FLUSH_INTERVAL_S", "-inf"),
        ("CARTSVC_FLUSH_INTERVAL_S", "1e999"),
        ("CARTSVC_FLUSH_BATCH", "0"),
        ("CARTSVC_TRUSTED_PROXIES", "*"),
        ("CARTSVC_TRUSTED_PROXIES", "proxy.example.com"),
        ("CARTSVC_TRUSTED_PROXIES", "10.0.0.1,"),
        ("CARTSVC_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("CARTSVC_LOG_LEVEL", "debug"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(variable: str, text: str) -> None:
    with pytest.raises(SettingError) as refused:
        settings.read({variable: text})
    told = str(refused.value)
    if variable.endswith("_URL"):
        # There may be a password in it.
        assert told.startswith(f"{variable}: is not ")
        assert "127.0.0.1" not in told
    else:
        assert told.startswith(f"{variable}: {text!r} is not ")


# A byte of the environment that is not UTF-8 comes as a surrogate.
@pytest.mark.parametrize(
    "secret", ["short-secret", "x" * 31, "\udcff" * 32], ids=["short", "31 characters", "not UTF-8"]
)
def test_a_secret_that_can_not_be_used_is_refused_without_printing_it(secret: str) -> None:
    with pytest.raises(SettingError) as refused:
        settings.read({"CARTSVC_JWT_SECRET": secret})
    assert str(refused.value).startswith("CARTSVC_JWT_SECRET: ")
    assert secret not in str(refused.value)


def test_printed_settings_do_not_show_the_secret() -> None:
    assert SECRET not in repr(settings.read({"CARTSVC_JWT_SECRET": SECRET}))


def test_what_tokens_are_verified_with_is_counted() -> None:
    assert Settings().jwt_keys() == []
    assert Settings(jwt_jwks_file="jwks.json", jwt_secret=SECRET).jwt_keys() == [
        "jwt_secret",
        "jwt_jwks_file",
    ]


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(SettingError, match="CARTSVC_TENANT"):
        Settings(tenant="{acme}")


@pytest.mark.parametrize("place", ["localhost:abc", "localhost:99999", "[::1"])
@pytest.mark.parametrize(
    ("variable", "scheme"), [("CARTSVC_REDIS_URL", "redis"), ("CARTSVC_DATABASE_URL", "postgresql")]
)
def test_a_url_needs_a_host_and_port_that_can_be(variable: str, scheme: str, place: str) -> None:
    with pytest.raises(SettingError) as refused:
        settings.read({variable: f"{scheme}://{place}/0"})
    assert str(refused.value) == f"{variable}: has no usable host and port"
