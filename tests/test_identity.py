"""Tokens: what is verified, with which key, and that whatever else comes is refused."""

import base64
import functools
import hashlib
import hmac
import json
import math
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartsvc import dev, identity
from cartsvc.errors import BadToken
from cartsvc.identity import Principal, Verifier
from cartsvc.settings import SettingError, Settings
from tests.command import run

SECRET = "a secret that is long enough for every HMAC: 64 bytes of SHA-512!"
NOW = 1_800_000_000
CLAIMS = {"sub": "ann", "type": "customer"}
ANN = Principal("ann", "customer", None)

Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Keys:
    """Private keys, made once: of two issuers, and some that are refused."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65_537, 2048)
        self.other_rsa = rsa.generate_private_key(65_537, 2048)
        self.short_rsa = rsa.generate_private_key(65_537, 2047)  # noqa: S505
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.other_ec = ec.generate_private_key(ec.SECP256R1())
        self.p384 = ec.generate_private_key(ec.SECP384R1())
        self.ed25519 = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys()


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def public_pem(key: Private | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def private_pem(key: Private) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def jwk(key: Private | ed25519.Ed25519PrivateKey, **members: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        return jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True) | members
    if isinstance(public, ec.EllipticCurvePublicKey):
        return jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True) | members
    return jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True) | members


def by_secret(**changes: Any) -> Verifier:
    return Verifier(Settings(jwt_secret=SECRET, **changes), clock=Clock())


def by_pem(folder: Path, pem: bytes) -> Verifier:
    file = folder / "key.pem"
    file.write_bytes(pem)
    return Verifier(Settings(jwt_public_key_file=str(file)), clock=Clock())


def by_jwks(folder: Path, *entries: dict[str, Any]) -> Verifier:
    file = folder / "jwks.json"
    file.write_text(json.dumps({"keys": entries}))
    return Verifier(Settings(jwt_jwks_file=str(file)), clock=Clock())


def token(key: Private | str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    return jwt.encode({**CLAIMS, **claims}, key, algorithm=algorithm)


def segment(text: str | bytes) -> str:
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def raw(header: str, payload: str | bytes, secret: bytes = SECRET.encode()) -> str:
    """A token with the HS256 signature that its parts need, whatever they are."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


HS256 = '{"alg": "HS256"}'
PEM = b"-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n"


def refused(verifier: Verifier, text: str, reason: str = "") -> None:
    with pytest.raises(BadToken) as error:
        verifier.verify(text)
    assert reason in error.value.reason


# The header.


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        ([b"Bearer a.b.c"], "a.b.c"),
        ([b"bearer a.b.c"], "a.b.c"),
        ([b"BEARER   a.b.c "], "a.b.c"),
        ([b"Bearer"], ""),
        ([b"Bearer "], ""),
        ([b""], ""),
        ([b"a.b.c"], ""),
        ([b"Basic YTpi"], ""),
        ([b"Bearera.b.c"], ""),
        ([b"Bearer a.b.\xc3\xa9"], ""),
        ([b"Bearer a.b.\xff"], ""),
        ([b"Bearer a.b.c", b"Bearer a.b.c"], ""),
        ([b"Bearer a.b.c", b"Basic YTpi"], ""),
        ([b"Basic YTpi", b"Bearer a.b.c"], ""),
    ],
)
def test_bearer(values: list[bytes], found: str | None) -> None:
    headers = [(b"host", b"Bearer x"), *((b"authorization", value) for value in values)]
    assert identity.bearer(headers) == found


# Keys and algorithms.


def test_a_secret_verifies_hs256() -> None:
    assert by_secret().verify(token()) == ANN


def test_a_public_key_verifies_its_own_algorithm(keys: Keys, tmp_path: Path) -> None:
    assert by_pem(tmp_path, public_pem(keys.rsa)).verify(token(keys.rsa, "RS256")) == ANN
    assert by_pem(tmp_path, public_pem(keys.ec)).verify(token(keys.ec, "ES256")) == ANN


def test_another_key_or_a_changed_token_is_refused(keys: Keys, tmp_path: Path) -> None:
    refused(by_secret(), token(SECRET[::-1]), "Signature")
    refused(by_pem(tmp_path, public_pem(keys.rsa)), token(keys.other_rsa, "RS256"), "Signature")
    refused(by_pem(tmp_path, public_pem(keys.ec)), token(keys.other_ec, "ES256"), "Signature")
    header, payload, signature = token().split(".")
    refused(by_secret(), f"{header}.{segment(json.dumps(CLAIMS | {'sub': 'eve'}))}.{signature}")
    refused(by_secret(), f"{header}.{payload}.{signature[:-2]}")
    refused(by_secret(), f"{header}.{payload}.")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
def test_an_unsigned_token_is_refused(keys: Keys, tmp_path: Path, algorithm: str) -> None:
    text = f"{segment(json.dumps({'alg': algorithm}))}.{segment(json.dumps(CLAIMS))}."
    for verifier in (
        by_secret(),
        by_pem(tmp_path, public_pem(keys.rsa)),
        by_jwks(tmp_path, jwk(keys.rsa)),
    ):
        refused(verifier, text, "alg")


def test_another_algorithm_of_the_same_key_is_refused(keys: Keys, tmp_path: Path) -> None:
    for algorithm in ("HS384", "HS512"):
        refused(by_secret(), token(SECRET, algorithm), "alg")
    for verifier in (by_pem(tmp_path, public_pem(keys.rsa)), by_jwks(tmp_path, jwk(keys.rsa))):
        for algorithm in ("RS384", "RS512", "PS256"):
            refused(verifier, token(keys.rsa, algorithm), "alg")


def test_a_public_key_is_no_secret(keys: Keys, tmp_path: Path) -> None:
    for key in (keys.rsa, keys.ec):
        forged = raw(HS256, json.dumps(CLAIMS), public_pem(key))
        refused(by_pem(tmp_path, public_pem(key)), forged, "alg")
        refused(by_jwks(tmp_path, jwk(key)), forged, "alg")


def test_a_key_of_a_set_is_chosen_by_kid(keys: Keys, tmp_path: Path) -> None:
    verifier = by_jwks(tmp_path, jwk(keys.rsa, kid="a"), jwk(keys.ec, kid="b"))

    def signed(key: Private, algorithm: str, kid: str | None) -> str:
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(CLAIMS, key, algorithm=algorithm, headers=headers)

    assert verifier.verify(signed(keys.rsa, "RS256", "a")) == ANN
    assert verifier.verify(signed(keys.ec, "ES256", "b")) == ANN
    refused(verifier, signed(keys.other_rsa, "RS256", "a"), "Signature")
    refused(verifier, signed(keys.rsa, "RS256", "b"), "alg")
    refused(verifier, signed(keys.ec, "ES256", "a"), "alg")
    for kid in ("c", "", None):
        refused(verifier, signed(keys.rsa, "RS256", kid), "no key has its kid")
    refused(verifier, raw('{"alg": "RS256", "kid": ["a"]}', json.dumps(CLAIMS)), "string")

    only = by_jwks(tmp_path, jwk(keys.rsa, kid="a"))
    assert only.verify(signed(keys.rsa, "RS256", "a")) == ANN
    assert only.verify(signed(keys.rsa, "RS256", None)) == ANN
    refused(only, signed(keys.rsa, "RS256", "b"), "no key has its kid")


def test_a_kid_means_nothing_where_there_is_no_set(keys: Keys, tmp_path: Path) -> None:
    headers = {"kid": "a"}
    assert by_secret().verify(jwt.encode(CLAIMS, SECRET, "HS256", headers)) == ANN
    verifier = by_pem(tmp_path, public_pem(keys.rsa))
    assert verifier.verify(jwt.encode(CLAIMS, keys.rsa, "RS256", headers)) == ANN


def test_a_key_for_encryption_is_no_key_of_the_set(keys: Keys, tmp_path: Path) -> None:
    encrypts = jwk(keys.other_rsa, use="enc", alg="RSA-OAEP", kid="e")
    signs = jwk(keys.rsa, use="sig", alg="RS256", kid="s")
    verifier = by_jwks(tmp_path, encrypts, signs, encrypts | {"kid": "s"})
    assert verifier.verify(token(keys.rsa, "RS256")) == ANN
    refused(verifier, token(keys.other_rsa, "RS256"), "Signature")
    told(lambda: by_jwks(tmp_path, encrypts), "there is no key in it")


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "/dev/null",
        "file:///dev/null",
        "http://127.0.0.1/keys",
        "a' OR '1'='1",
        "a\x00",
        "a\n",
        "a ",
        "A",
        "*",
        "a" * 4_000,
    ],
)
def test_a_kid_is_a_name_and_nothing_else(keys: Keys, tmp_path: Path, kid: str) -> None:
    verifier = by_jwks(tmp_path, jwk(keys.rsa, kid="a"), jwk(keys.ec, kid="b"))
    signed = jwt.encode(CLAIMS, keys.rsa, "RS256", {"kid": kid})
    refused(verifier, signed, "no key has its kid")
    # An empty file, say, would be a key that everybody has.
    refused(verifier, raw(json.dumps({"alg": "HS256", "kid": kid}), json.dumps(CLAIMS), b""))
    assert by_secret().verify(jwt.encode(CLAIMS, SECRET, "HS256", {"kid": kid})) == ANN


def test_a_key_that_a_token_brings_or_names_is_not_looked_at(keys: Keys, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"http://127.0.0.1:{server.getsockname()[1]}/keys"
        brought: list[dict[str, Any]] = [
            {"jwk": jwk(keys.other_rsa)},
            {"jwk": {"kty": "oct", "k": segment("known")}},
            {"jku": place},
            {"x5u": place},
            {"x5c": [base64.b64encode(public_pem(keys.other_rsa)).decode()]},
        ]
        pem = by_pem(tmp_path, public_pem(keys.rsa))
        for verifier in (pem, by_jwks(tmp_path, jwk(keys.rsa, kid="a"))):
            for header in brought:
                header["kid"] = "a"
                forged = jwt.encode(CLAIMS, keys.other_rsa, "RS256", header)
                refused(verifier, forged, "Signature")
                known = raw(json.dumps({"alg": "HS256", **header}), json.dumps(CLAIMS), b"known")
                refused(verifier, known, "alg")
                # Whose signature is good may say what it likes.
                assert verifier.verify(jwt.encode(CLAIMS, keys.rsa, "RS256", header)) == ANN
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_signature_of_zeros_is_none(keys: Keys, tmp_path: Path) -> None:
    verifier = by_pem(tmp_path, public_pem(keys.ec))
    signed = ".".join(segment(json.dumps(part)) for part in ({"alg": "ES256"}, CLAIMS))
    for size in (0, 1, 63, 64, 65, 128):
        refused(verifier, f"{signed}.{segment(bytes(size))}", "Signature")


def test_of_a_header_that_is_there_twice_the_last_counts(keys: Keys, tmp_path: Path) -> None:
    """As it does for whoever made the signature: that is what is checked."""
    twice = '{"alg": "none", "alg": "HS256"}'
    assert by_secret().verify(raw(twice, json.dumps(CLAIMS))) == ANN
    refused(by_secret(), raw('{"alg": "HS256", "alg": "none"}', json.dumps(CLAIMS)), "alg")
    refused(by_pem(tmp_path, public_pem(keys.rsa)), raw(twice, json.dumps(CLAIMS)), "alg")


def test_signatures_are_compared_in_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of a wrong one is right."""
    compared = []
    compare = hmac.compare_digest

    def comparing(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", comparing)
    text = token()
    signed, _, signature = text.rpartition(".")
    wrong = f"{signed}.{segment(bytes(32))}"
    assert by_secret().verify(text) == ANN
    refused(by_secret(), wrong, "Signature")
    right = base64.urlsafe_b64decode(signature + "=")
    assert {frozenset(pair) for pair in compared} == {
        frozenset({right}),
        frozenset({right, bytes(32)}),
    }


# Settings that can't be used.


def told(make: Callable[[], object], *words: str) -> str:
    with pytest.raises(SettingError) as error:
        make()
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text
    return text


SOURCES = {
    "jwt_secret": "CARTSVC_JWT_SECRET",
    "jwt_public_key_file": "CARTSVC_JWT_PUBLIC_KEY_FILE",
    "jwt_jwks_file": "CARTSVC_JWT_JWKS_FILE",
}


def test_something_has_to_be_set() -> None:
    told(lambda: Verifier(Settings()), *SOURCES.values(), "there is no default")


@pytest.mark.parametrize("missing", [*SOURCES, None])
def test_only_one_may_be_set(missing: str | None, keys: Keys, tmp_path: Path) -> None:
    pem, jwks = tmp_path / "key.pem", tmp_path / "jwks.json"
    pem.write_bytes(public_pem(keys.rsa))
    jwks.write_text(json.dumps({"keys": [jwk(keys.rsa)]}))
    values: dict[str, Any] = {
        "jwt_secret": SECRET,
        "jwt_public_key_file": str(pem),
        "jwt_jwks_file": str(jwks),
    }
    values.pop(str(missing), None)
    text = told(lambda: Verifier(Settings(**values)), "only one", *(SOURCES[n] for n in values))
    assert SECRET not in text
    assert missing is None or SOURCES[missing] not in text


@pytest.mark.parametrize("name", ["jwt_public_key_file", "jwt_jwks_file"])
def test_a_file_that_can_not_be_read(name: str, tmp_path: Path) -> None:
    for file, problem in (
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path), "Is a directory"),
        ("a\0b", "null byte"),
    ):
        values: dict[str, Any] = {name: file}
        told(
            functools.partial(Verifier, Settings(**values)), f"{SOURCES[name]}: {file!r}: ", problem
        )


def test_public_keys_that_are_refused(keys: Keys, tmp_path: Path) -> None:
    p384 = keys.p384.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    no_curve = base64.b64encode(p384.replace(b"\x2b\x81\x04\x00\x22", b"\x2b\x81\x04\x00\x7f"))
    cases = [
        (b"", "not a public key"),
        (b"\xff\xfe", "not a public key"),
        (SECRET.encode(), "not a public key"),
        (PEM % b"AAAA", "not a public key"),
        (PEM % no_curve, "not a public key"),
        (private_pem(keys.rsa), "private key"),
        (private_pem(keys.ec), "private key"),
        (public_pem(keys.rsa) + private_pem(keys.rsa), "private key"),
        (public_pem(keys.short_rsa), "2047 bits"),
        (public_pem(keys.p384), "neither an RSA nor a P-256"),
        (public_pem(keys.ed25519), "neither an RSA nor a P-256"),
    ]
    for pem, problem in cases:
        told(functools.partial(by_pem, tmp_path, pem), SOURCES["jwt_public_key_file"], problem)


def test_keys_of_a_set_that_are_refused(keys: Keys, tmp_path: Path) -> None:
    good = jwk(keys.rsa, kid="a")
    secret = {"kty": "oct", "k": segment(SECRET)}
    private = jwt.algorithms.RSAAlgorithm.to_jwk(keys.rsa, as_dict=True)
    cases: list[tuple[list[dict[str, Any]], str]] = [
        ([], "there is no key in it"),
        ([{}], "key 1: not a key"),
        ([secret], "key 1: neither an RSA nor a P-256"),
        ([{"kty": "oct"}], "key 1: not a key"),
        ([good, secret], "key 2: neither an RSA nor a P-256"),
        ([private], "key 1: a private key"),
        ([private | {"use": "enc"}], "key 1: a private key"),
        ([jwk(keys.ec, d=segment("d"))], "key 1: a private key"),
        ([jwk(keys.short_rsa)], "key 1: an RSA key of 2047 bits"),
        ([jwk(keys.p384)], "key 1: neither an RSA nor a P-256"),
        ([jwk(keys.ed25519)], "key 1: neither an RSA nor a P-256"),
        ([jwk(keys.rsa, alg="RS512")], "key 1: its alg is not RS256"),
        ([jwk(keys.rsa, alg="PS256")], "key 1: its alg is not RS256"),
        ([jwk(keys.rsa, alg="HS256")], "key 1: not a key"),
        ([jwk(keys.rsa, alg="RSA-OAEP")], "key 1: not a key"),
        ([jwk(keys.rsa, alg=["RS256"])], "key 1: not a key"),
        ([jwk(keys.rsa, n=5)], "key 1: not a key"),
        ([jwk(keys.ec, x="AA")], "key 1: not a key"),
        ([jwk(keys.rsa, kid=5)], "key 1: has no kid of its own"),
        ([jwk(keys.rsa, kid=[5])], "key 1: has no kid of its own"),
        ([good, jwk(keys.ec, kid="a")], "key 2: has no kid of its own"),
        ([jwk(keys.rsa), jwk(keys.ec)], "key 2: has no kid of its own"),
        ([good, jwk(keys.ec)], "one of several keys has no kid"),
    ]
    for entries, problem in cases:
        make = functools.partial(by_jwks, tmp_path, *entries)
        text = told(make, f"{SOURCES['jwt_jwks_file']}: ", problem)
        assert segment(SECRET) not in text
        assert private["d"] not in text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b"\xff",
        b'{"\xff": 1}',
        b'{"keys": [{"a": ' + b"[" * 99_999,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_file_that_is_no_set(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(text)
    make = functools.partial(Verifier, Settings(jwt_jwks_file=str(file)))
    told(make, SOURCES["jwt_jwks_file"], str(file), "not a JWKS")


def test_a_key_is_no_secret(keys: Keys) -> None:
    pem = public_pem(keys.rsa).decode()
    for make in (
        lambda: Verifier(Settings(jwt_secret=pem)),
        lambda: identity.issue_token(pem, subject="1", kind="user", tenant=None, ttl_s=1),
    ):
        assert pem not in told(make, SOURCES["jwt_secret"], "a key of another kind")


# Claims.


def test_issuer_and_audience_are_not_looked_at_when_not_set() -> None:
    verifier = by_secret()
    for claims in ({}, {"iss": "x", "aud": "y"}, {"iss": 5, "aud": {"z": 1}}):
        assert verifier.verify(raw(HS256, json.dumps(CLAIMS | claims))) == ANN


def test_the_issuer_must_be_the_one_that_is_set() -> None:
    verifier = by_secret(jwt_issuer="https://id.example.com/")
    assert verifier.verify(token(iss="https://id.example.com/")) == ANN
    refused(verifier, token(), "iss")
    for other in ("https://id.example.com", "", None, 5, ["https://id.example.com/"]):
        refused(verifier, raw(HS256, json.dumps(CLAIMS | {"iss": other})), "ss")


def test_the_audience_must_be_the_one_that_is_set() -> None:
    verifier = by_secret(jwt_audience="cart")
    assert verifier.verify(token(aud="cart")) == ANN
    assert verifier.verify(token(aud=["shop", "cart"])) == ANN
    refused(verifier, token(), "aud")
    for other in ("shop", "cart ", "", None, 5, [], ["shop"], ["cart", 5], {"cart": 1}):
        refused(verifier, raw(HS256, json.dumps(CLAIMS | {"aud": other})))


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({}, True),
        ({"exp": NOW + 1}, True),
        ({"exp": NOW + 0.5}, True),
        ({"exp": NOW}, False),
        ({"exp": NOW - 0.5}, False),
        ({"exp": 0}, False),
        ({"exp": -1}, False),
        ({"exp": 10**400}, True),
        ({"nbf": NOW}, True),
        ({"nbf": NOW + 0.5}, False),
        ({"nbf": NOW + 1}, False),
        ({"nbf": 10**400}, False),
        ({"nbf": NOW, "exp": NOW + 1}, True),
        # When it was made, and its number, are not looked at.
        ({"iat": NOW + 9999, "jti": 5}, True),
        ({"iat": "soon", "jti": None}, True),
    ],
)
def test_times(claims: dict[str, Any], accepted: bool) -> None:
    text = raw(HS256, json.dumps(CLAIMS | claims))
    if accepted:
        assert by_secret().verify(text) == ANN
    else:
        refused(by_secret(), text)


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value", [f'"{NOW + 99}"', "true", "null", "[]", "{}", "NaN", "Infinity", "-Infinity", "1e999"]
)
def test_a_time_that_is_no_number_is_refused(name: str, value: str) -> None:
    payload = f'{{"sub": "ann", "type": "customer", "{name}": {value}}}'
    refused(by_secret(), raw(HS256, payload), f"{name} is not a number")


@pytest.mark.parametrize(
    ("sub", "subject"),
    [
        ("a", "a"),
        ("a" * 128, "a" * 128),
        ("auth0|Änne b", "auth0|Änne b"),
        (42, "42"),
        (0, "0"),
        (-7, "-7"),
        (10**127, "1" + "0" * 127),
    ],
)
def test_subjects(sub: str | int, subject: str) -> None:
    text = raw(HS256, json.dumps(CLAIMS | {"sub": sub}))
    assert by_secret().verify(text) == Principal(subject, "customer", None)


@pytest.mark.parametrize(
    "sub",
    ["", "a" * 129, 10**128, "a\nb", "a\0", "\x7f", "\ud800", "\u200e", None, True, 1.0, [], {}],
)
def test_subjects_that_are_refused(sub: object) -> None:
    refused(by_secret(), raw(HS256, json.dumps(CLAIMS | {"sub": sub})), "sub ")


def test_a_token_needs_a_subject_and_a_type() -> None:
    refused(by_secret(), raw(HS256, '{"type": "customer"}'), "sub ")
    refused(by_secret(), raw(HS256, '{"sub": "ann"}'), "type ")


@pytest.mark.parametrize("kind", identity.TOKEN_TYPES)
def test_types(kind: str) -> None:
    assert by_secret().verify(token(type=kind)) == Principal("ann", kind, None)


@pytest.mark.parametrize("kind", ["", "admin", "Customer", "customer ", None, 1, [], ["user"], {}])
def test_types_that_are_refused(kind: object) -> None:
    refused(by_secret(), token(type=kind), "type ")


def test_tenants() -> None:
    assert by_secret().verify(token(tenant=None)) == ANN
    for tenant in ("acme_2-eu", "a" * 64):
        assert by_secret().verify(token(tenant=tenant)) == Principal("ann", "customer", tenant)


@pytest.mark.parametrize("tenant", ["", "a}:{b", "acme\n", "a" * 65, 5, 0, False, [], {}])
def test_tenants_that_are_refused(tenant: object) -> None:
    refused(by_secret(), token(tenant=tenant), "tenant ")


# What comes in.


def test_a_token_has_at_most_8_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(characters: int) -> str:
        # Not every length can be had by filling the payload alone: it is in base64.
        for spaces in range(3):
            for filling in range(5_900, 6_200):
                text = raw(HS256 + " " * spaces, json.dumps(CLAIMS | {"x": "x" * filling}))
                if len(text) == characters:
                    return text
        raise AssertionError(f"no token has {characters} characters")

    longest, longer = of(8192), of(8193)
    assert by_secret().verify(longest) == ANN
    # Refused before anything is decoded.
    monkeypatch.setattr(jwt, "decode", pytest.fail)
    refused(by_secret(), longer, "8192")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "a.b.c.d",
        "é.b.c",
        "\ud800.b.c",
        "\0.\0.\0",
        raw("", ""),
        raw("[]", "{}"),
        raw("1", "{}"),
        raw("{}", "{}"),
        raw('{"alg": null}', "{}"),
        raw('{"alg": ["HS256"]}', "{}"),
        raw('{"alg": {}}', "{}"),
        raw('{"alg": "HS256", "kid": {}}', json.dumps(CLAIMS)),
        raw('{"alg": "HS256", "crit": ["x"], "x": 1}', json.dumps(CLAIMS)),
        raw('{"alg": "HS256", "b64": false, "crit": ["b64"]}', json.dumps(CLAIMS)),
        raw(HS256, ""),
        raw(HS256, "null"),
        raw(HS256, "[]"),
        raw(HS256, '"sub"'),
        raw(HS256, b"\xff\xfe"),
        raw(HS256, '{"sub": "\ud800", "type": "customer"}'),
        raw(HS256, f'{{"sub": {"9" * 5_000}}}'),
        raw(HS256, "[" * 6_000),
        raw(HS256, '{"a":' * 1_000 + "1" + "}" * 1_000),
        raw("[" * 6_000, "{}"),
        raw('{"a":' * 1_000 + "1" + "}" * 1_000, "{}"),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_nonsense_is_refused(text: str, keys: Keys, tmp_path: Path) -> None:
    for verifier in (
        by_secret(),
        by_pem(tmp_path, public_pem(keys.rsa)),
        by_jwks(tmp_path, jwk(keys.ec, kid="a"), jwk(keys.rsa, kid="b")),
    ):
        refused(verifier, text)


def test_what_a_json_parser_can_not_stand_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflow(*_: object, **__: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    # As PyJWT before 2.15 lets it through.
    monkeypatch.setattr(jwt, "decode", overflow)
    refused(by_secret(), token(), "recursion")


NAMES = st.sampled_from(["sub", "type", "tenant", "exp", "nbf", "iat", "iss", "aud", "jti", "x"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["ann", "customer", 10**400, NOW + 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), VALUES)
ANY_SET = [by_secret(), by_secret(jwt_issuer="ann", jwt_audience="customer")]


# The first text of all takes a second: tables of Unicode are made.
without_hurry = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def speaks_for_somebody_or_is_refused(text: str) -> None:
    for verifier in ANY_SET:
        try:
            found = verifier.verify(text)
        except BadToken:
            continue
        assert 1 <= len(found.subject) <= 128
        assert found.kind in identity.TOKEN_TYPES


@without_hurry
@given(st.text(alphabet=st.characters() | st.sampled_from("eyJ.=_-"), max_size=60))
def test_any_text(text: str) -> None:
    speaks_for_somebody_or_is_refused(text)


@without_hurry
@given(HEADERS, st.dictionaries(NAMES, VALUES), st.booleans())
def test_any_claims(header: dict[str, Any], claims: dict[str, Any], known: bool) -> None:
    header = {"alg": "HS256", **({} if known else header)}
    claims = {**CLAIMS, **claims}
    speaks_for_somebody_or_is_refused(raw(json.dumps(header), json.dumps(claims)))


# What is remembered.


class Counter:
    """Counts how often PyJWT is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        decode = jwt.decode

        def counting(*arguments: Any, **options: Any) -> Any:
            self.asked += 1
            return decode(*arguments, **options)

        monkeypatch.setattr(jwt, "decode", counting)


def test_a_token_is_verified_once_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counter = Clock(), Counter(monkeypatch)
    verifier = Verifier(Settings(jwt_secret=SECRET), clock=clock)
    text, endless = token(exp=NOW + 10), token()
    for now in (NOW, NOW + 9.5):
        clock.now = now
        assert verifier.verify(text) == verifier.verify(endless) == ANN
    assert counter.asked == 2
    clock.now = NOW + 10
    refused(verifier, text, "expired")
    clock.now = NOW * 1000
    assert verifier.verify(endless) == ANN
    assert counter.asked == 3


def test_a_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, counter = Clock(), Counter(monkeypatch)
    verifier = Verifier(Settings(jwt_secret=SECRET), clock=clock)
    text = token(nbf=NOW + 1)
    refused(verifier, text, "not valid yet")
    refused(verifier, text, "not valid yet")
    clock.now = NOW + 1
    assert verifier.verify(text) == ANN
    assert counter.asked == 3


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.MAX_CACHED_TOKENS == 10_000
    monkeypatch.setattr(identity, "MAX_CACHED_TOKENS", 2)
    counter, verifier = Counter(monkeypatch), by_secret()
    for sub in ("1", "2", "3", "3", "2", "1"):
        assert verifier.verify(token(sub=sub)) == Principal(sub, "customer", None)
    assert counter.asked == 4


def test_the_clock_that_is_used_is_the_real_one() -> None:
    verifier = Verifier(Settings(jwt_secret=SECRET))
    now = math.floor(time.time())
    assert verifier.verify(token(nbf=now, exp=now + 600)) == ANN
    refused(verifier, token(exp=now), "expired")


# Tokens of its own.


def test_what_is_issued_is_verified() -> None:
    values = Settings(jwt_secret=SECRET, jwt_issuer="me", jwt_audience="cart")
    issue = functools.partial(identity.issue_token, SECRET, subject="7", kind="service", ttl_s=60)
    text = issue(tenant="acme", issuer="me", audience="cart")
    assert Verifier(values).verify(text) == Principal("7", "service", "acme")
    claims = jwt.decode(issue(tenant=None), SECRET, algorithms=["HS256"])
    assert claims.keys() == {"sub", "type", "iat", "exp"}


def test_the_command_names_issuer_and_audience() -> None:
    done = run(
        "token",
        "--sub",
        "7",
        CARTSVC_JWT_SECRET=SECRET,
        CARTSVC_JWT_ISSUER="me",
        CARTSVC_JWT_AUDIENCE="cart",
    )
    values = Settings(jwt_secret=SECRET, jwt_issuer="me", jwt_audience="cart")
    assert Verifier(values).verify(done.stdout.strip()) == Principal("7", "customer", None)


def test_the_command_refuses_a_key_as_a_secret(keys: Keys) -> None:
    done = run("token", "--sub", "7", CARTSVC_JWT_SECRET=public_pem(keys.rsa).decode())
    assert done.stderr == "cartsvc: CARTSVC_JWT_SECRET: is a key of another kind\n"


@pytest.mark.parametrize("name", [*SOURCES, None])
def test_dev_keeps_a_secret_only_where_nothing_is_set(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "FOLDER", tmp_path)
    elsewhere = {
        "CARTSVC_REDIS_URL": "redis://redis.example.com",
        "CARTSVC_DATABASE_URL": "postgresql://db.example.com/cart",
    }
    values: dict[str, Any] = {name: SECRET} if name else {}
    found, servers = dev._servers(Settings(**values), elsewhere)
    assert servers == []
    assert found.jwt_keys() == [name or "jwt_secret"]
    assert (tmp_path / "jwt-secret").exists() == (name is None)
