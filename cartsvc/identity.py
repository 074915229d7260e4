"""Who a request speaks for: session ids, and tokens."""

import math
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jwt
import msgspec
from cachetools import TLRUCache
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cartsvc.errors import BadToken, Invalid
from cartsvc.model import Owner, is_owner_id
from cartsvc.settings import JWT_KEYS, TENANT_PATTERN, SettingError, Settings, variable

TOKEN_TYPES = ("customer", "user", "service")
"""Shoppers, admins, other programs."""

MAX_TOKEN_CHARACTERS = 8_192
MAX_CACHED_TOKENS = 10_000
MIN_RSA_BITS = 2_048

_SESSION_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")

SessionId = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{_SESSION_ID.pattern}$"})]
"""A session's id, as machines are told of it; `session` checks it."""

_SESSION_BYTES = 24
_TENANT = re.compile(TENANT_PATTERN)

# What the libraries raise for a key that they can't read. In a JWK, a member may be missing
# (LookupError), or not be text (TypeError).
_NO_KEY = (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, LookupError, TypeError)


class Principal(msgspec.Struct, frozen=True):
    """Whom a verified token speaks for.

    `kind` is one of TOKEN_TYPES; `tenant` is None where the token names none.
    """

    subject: str
    kind: str
    tenant: str | None


class _Key(NamedTuple):
    """A key, and the one algorithm that it is for."""

    key: RSAPublicKey | EllipticCurvePublicKey | bytes
    algorithm: str


def session(session_id: str | None) -> Owner:
    """The owner of a guest's cart; a new one when the client has no session yet.

    Raises:
        Invalid: the id has characters, or a length, that no session id has.
    """
    if session_id is None:
        return Owner("session", secrets.token_urlsafe(_SESSION_BYTES))
    if not _SESSION_ID.fullmatch(session_id):
        raise Invalid("session_id", "must be 1 to 128 letters, digits, '.', '_', '~' or '-'")
    return Owner("session", session_id)


def issue_token(
    secret: str,
    *,
    subject: str,
    kind: str,
    tenant: str | None,
    ttl_s: int,
    issuer: str = "",
    audience: str = "",
) -> str:
    """A token signed with HS256. `kind` is one of TOKEN_TYPES; an empty claim is left out.

    Raises:
        SettingError: the secret is a key of another kind.
    """
    now = int(time.time())
    claims = {"sub": subject, "type": kind, "iat": now, "exp": now + ttl_s}
    if tenant is not None:
        claims["tenant"] = tenant
    if issuer:
        claims["iss"] = issuer
    if audience:
        claims["aud"] = audience
    return jwt.encode(claims, _hs256_key(secret), algorithm="HS256")


def bearer(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The token in the headers of an ASGI scope: ASCII.

    None when there is no Authorization header; "" when there are several, or one that carries
    no Bearer token.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        return None
    scheme, _, token = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() != b"bearer" or not token.isascii():
        return ""
    return token.decode("ascii").strip(" ")


class Verifier:
    """Verifies tokens, with the key that the settings name and the one algorithm it is for.

    A token that was verified is remembered until it expires. `clock` gives seconds since the
    epoch.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        """Read the key.

        Raises:
            SettingError: there is none, more than one, or one that can't be used.
        """
        self._keys = _read_keys(settings)
        self._by_kid = bool(settings.jwt_jwks_file)
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._clock = clock
        self._verified: TLRUCache[str, tuple[Principal, float]] = TLRUCache(
            MAX_CACHED_TOKENS, ttu=lambda _token, entry, _now: entry[1], timer=clock
        )

    def verify(self, token: str) -> Principal:
        """Whom the token speaks for.

        Raises:
            BadToken: whatever is wrong with it.
        """
        try:
            # Not get(): that looks at the clock twice.
            return self._verified[token][0]
        except KeyError:
            pass
        claims = self._claims(token)
        expires = _check_time(claims, self._clock())
        principal = _principal(claims)
        self._verified[token] = (principal, expires)
        return principal

    def _claims(self, token: str) -> dict[str, Any]:
        """What the token says, once its signature, issuer and audience are the right ones."""
        if len(token) > MAX_TOKEN_CHARACTERS or not token.isascii():
            raise BadToken(f"is not at most {MAX_TOKEN_CHARACTERS} ASCII characters")
        try:
            kid = jwt.get_unverified_header(token).get("kid") if self._by_kid else None
            found = self._keys.get(kid)
            if found is None:
                raise BadToken("no key has its kid")
            return jwt.decode(
                token,
                found.key,
                algorithms=[found.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # The other claims are checked here: times by the cache's clock, and a subject may
                # be a number.
                options={
                    "verify_aud": self._audience is not None,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_sub": False,
                    "verify_jti": False,
                },
            )
        # Before 2.15, PyJWT lets the JSON parser's RecursionError through.
        except (jwt.PyJWTError, RecursionError) as error:
            raise BadToken(str(error)) from None


def _check_time(claims: dict[str, Any], now: float) -> float:
    """When the token expires, in seconds since the epoch: infinity when it does not say."""
    expires = _seconds(claims, "exp", math.inf)
    if expires <= now:
        raise BadToken("has expired")
    if _seconds(claims, "nbf", -math.inf) > now:
        raise BadToken("is not valid yet")
    return expires


def _seconds(claims: dict[str, Any], name: str, default: float) -> float:
    if name not in claims:
        return default
    value: float = claims[name]
    # JSON as Python reads it has NaN and Infinity too; a bool is an int.
    if type(value) not in (int, float) or not abs(value) < math.inf:
        raise BadToken(f"{name} is not a number")
    return value


def _principal(claims: dict[str, Any]) -> Principal:
    subject, kind, tenant = claims.get("sub"), claims.get("type"), claims.get("tenant")
    if type(subject) is int:
        subject = str(subject)
    if not isinstance(subject, str) or not is_owner_id(subject):
        raise BadToken("sub is neither an integer nor a text that can name an owner")
    if kind not in TOKEN_TYPES:
        raise BadToken(f"type is not one of {', '.join(TOKEN_TYPES)}")
    if tenant is not None and not (isinstance(tenant, str) and _TENANT.fullmatch(tenant)):
        raise BadToken("tenant is not a tenant id")
    return Principal(subject, kind, tenant)


def _read_keys(settings: Settings) -> dict[str | None, _Key]:
    """The keys by kid; under None, the key of a token that has no kid (or whose kid is not asked).

    Raises:
        SettingError: there is none, more than one setting names some, or one can't be used.
    """
    named = settings.jwt_keys()
    if not named:
        choice = ", ".join(variable(name) for name in JWT_KEYS)
        raise SettingError(f"one of {choice} has to be set: there is no default")
    if len(named) > 1:
        several = ", ".join(variable(name) for name in named)
        raise SettingError(f"{several} are set: only one of them may be")
    if settings.jwt_secret:
        return {None: _Key(_hs256_key(settings.jwt_secret), "HS256")}
    [name] = named
    file = getattr(settings, name)
    try:
        text = Path(file).read_bytes()
        return {None: _pem_key(text)} if name == "jwt_public_key_file" else _jwks_keys(text)
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    raise SettingError(f"{variable(name)}: {file!r}: {problem}")


def _hs256_key(secret: str) -> bytes:
    """Raises SettingError: the secret is a PEM or the like."""
    try:
        key: bytes = jwt.get_algorithm_by_name("HS256").prepare_key(secret)
        return key
    except jwt.InvalidKeyError:
        raise SettingError(f"{variable('jwt_secret')}: is a key of another kind") from None


def _pem_key(text: bytes) -> _Key:
    """Raises ValueError: what is wrong with the file."""
    if b"PRIVATE KEY" in text:
        raise ValueError("there is a private key in it, which has no business here")
    try:
        key = load_pem_public_key(text)
    except _NO_KEY:
        raise ValueError("not a public key in PEM") from None
    return _pinned(key)


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


def _jwks_keys(text: bytes) -> dict[str | None, _Key]:
    """Raises ValueError: what is wrong with the file."""
    try:
        entries = msgspec.json.decode(text, type=_Jwks).keys
    except (ValueError, RecursionError):
        raise ValueError("not a JWKS") from None
    keys: dict[str | None, _Key] = {}
    for number, entry in enumerate(entries, 1):
        kid = entry.get("kid")
        try:
            key = _jwk(entry)
            if key is None:
                continue
            if not (kid is None or isinstance(kid, str)) or kid in keys:
                raise ValueError("has no kid of its own")
        except ValueError as error:
            raise ValueError(f"key {number}: {error}") from None
        keys[kid] = key
    if not keys:
        raise ValueError("there is no key in it")
    if len(keys) == 1:
        keys[None] = next(iter(keys.values()))
    elif None in keys:
        raise ValueError("one of several keys has no kid")
    return keys


def _jwk(entry: dict[str, Any]) -> _Key | None:
    """The key of one entry; None where it is not for signatures.

    Raises:
        ValueError: what is wrong with it.
    """
    if "d" in entry:
        raise ValueError("a private key, which has no business here")
    if entry.get("use", "sig") != "sig":
        return None
    try:
        found = jwt.PyJWK(entry)
    except _NO_KEY:
        raise ValueError("not a key that can be used") from None
    key = _pinned(found.key)
    if found.algorithm_name != key.algorithm:
        raise ValueError(f"its alg is not {key.algorithm}")
    return key


def _pinned(key: object) -> _Key:
    """The key with its one algorithm.

    Raises:
        ValueError: what is wrong with it.
    """
    match key:
        case RSAPublicKey() if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits, fewer than {MIN_RSA_BITS}")
        case RSAPublicKey():
            return _Key(key, "RS256")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return _Key(key, "ES256")
    raise ValueError("neither an RSA nor a P-256 public key")
