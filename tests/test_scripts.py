"""The scripts' headers and reply codes are held to their bodies, and to Python."""

import re
from functools import cache
from pathlib import Path

import pytest

from cartsvc import scripts
from cartsvc.errors import (
    REPLIES,
    CartChanged,
    CartClosed,
    CartError,
    NotEmpty,
    OutcomeUnknown,
    Refused,
    SoldOut,
    UnknownLetter,
    UnknownSku,
    UnknownTenant,
    VerifyRunning,
)
from cartsvc.keys import Bucket
from cartsvc.model import CART_ID_STEP, MAX_LINE, MAX_QUANTITY
from cartsvc.scripts import Runner
from tests.shop import LAMP, Shop

SCRIPTS = sorted(scripts.FOLDER.glob("*.lua"))
PIECES = sorted(scripts.FOLDER.glob("lib/*.lua"))

MARKER = "-- Nothing below may fail"
KEPT_REFUSAL = r"return conclude\((once, refuse\(cart, reply\)|request, refused)\)"
READS = "EXISTS|GET|H?M?GET|HGETALL|HKEYS|HEXISTS|PTTL|ZRANGEBYLEX|ZSCORE|SCARD|SISMEMBER"
WRITE = re.compile(rf"redis\.call\('(?!(?:{READS})')")
FUNCTION = re.compile(r"^local function (\w+)\(.*?^end$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"\{ ?'([A-Z_]+)'((?:, [^}]*?)?) ?\}")


def replies(lines: list[str]) -> set[tuple[str, int]]:
    """(code, number of facts behind it) of every reply but OK in a header or a body."""
    text = "\n".join(lines)
    for inner in (r"\([^()]*\)", r"\{[^{}']*\}"):
        text = re.sub(inner, "_", text)
    return {(code, facts.count(",")) for code, facts in CODE.findall(text) if code != "OK"}


@cache
def parts(file: Path) -> tuple[list[str], list[str]]:
    """The header's lines without their dashes, and the lines of the body."""
    lines = file.read_text().splitlines()
    if file in SCRIPTS:
        assert lines.pop(0) == "#!lua"
    header = []
    for line in lines:
        if not line.startswith("--"):
            break
        header.append(line.removeprefix("--").strip())
    return header, lines[len(header) :]


def pieces(file: Path) -> list[Path]:
    """The pieces that a script is joined with, in order."""
    header, _ = parts(file)
    used = [line.removeprefix("uses ").split(", ") for line in header if line.startswith("uses ")]
    return [file.parent / "lib" / f"{name}.lua" for name in (used[0] if used else [])]


def joined(file: Path) -> tuple[list[str], str]:
    """Headers and bodies of a script and its pieces, as one."""
    files = [*pieces(file), file]
    headers = [line for each in files for line in parts(each)[0]]
    return headers, "\n".join("\n".join(parts(each)[1]) for each in files)


def writers(text: str) -> dict[str, str]:
    """Name -> text of the functions that write, or call one that does."""
    functions = {found[1]: found[0] for found in FUNCTION.finditer(text)}
    found = {name for name, body in functions.items() if WRITE.search(body)}
    while True:
        more = {name for name, body in functions.items() if calls(body, found)} - found
        if not more:
            return {name: functions[name] for name in found}
        found |= more


def calls(text: str, names: set[str]) -> bool:
    return any(
        re.search(rf"(?<!function )\b{name}\(", text.partition("\n")[2]) or f"{name})" in text
        for name in names
    )


@pytest.mark.parametrize("file", [*SCRIPTS, *PIECES], ids=lambda file: file.stem)
class TestFile:
    def test_begins_with_name_and_purpose(self, file: Path) -> None:
        header, _ = parts(file)
        assert re.match(rf"{file.stem}: [a-z].+", header[0])

    def test_names_the_replies_that_the_body_gives(self, file: Path) -> None:
        header, body = parts(file)
        assert replies(header) == replies(body)

    def test_makes_no_key_and_uses_no_cjson(self, file: Path) -> None:
        _, body = parts(file)
        text = "\n".join(body)
        assert "cjson" not in text
        for key in re.findall(r"redis\.call\('\w+', ([^,)]+)", text):
            assert re.fullmatch(r"[a-z_]+(\.key)?", key), f"{key} is not a name given to a KEYS[n]"


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
class TestScript:
    def test_names_the_keys_and_arguments_that_the_body_reads(self, file: Path) -> None:
        header, body = joined(file)
        declared = {
            (kind, int(index), plus): name
            for line in header
            for kind, index, plus, name in re.findall(r"^(KEYS|ARGV)\[(\d+)(\+?)\]\s+(\w+)", line)
        }
        named = {
            (kind, int(index), ""): name
            for names, values in re.findall(
                r"^local ([\w, ]+) = ((?:(?:\w+\()?(?:KEYS|ARGV)\[\d+\]\)?(?:, )?)+)$",
                body,
                re.MULTILINE,
            )
            for name, (kind, index) in zip(
                names.split(", "), re.findall(r"(KEYS|ARGV)\[(\d+)\]", values), strict=True
            )
        }
        single = {key: name for key, name in declared.items() if not key[2]}
        assert single == named

    def test_a_list_begins_right_behind_what_is_single(self, file: Path) -> None:
        header, body = joined(file)
        for kind in ("KEYS", "ARGV"):
            indexes = re.findall(rf"^{kind}\[(\d+)(\+?)\]", "\n".join(header), re.MULTILINE)
            assert [int(index) for index, _ in indexes] == list(range(1, len(indexes) + 1))
            assert [plus for _, plus in indexes[:-1]] == [""] * (len(indexes) - 1)
            reads_a_list = re.search(rf"{kind}\[(?!\d+\])", body)
            assert bool(reads_a_list) == bool(indexes and indexes[-1][1])

    def test_says_what_it_returns(self, file: Path) -> None:
        header, _ = parts(file)
        assert re.search(r"^Returns +\{'OK', ", "\n".join(header), re.MULTILINE)

    def test_uses_the_pieces_that_it_names(self, file: Path) -> None:
        _, everything = joined(file)
        for piece in pieces(file):
            text = "\n".join(parts(piece)[1])
            names = set(re.findall(r"^local (?:function )?([\w, ]+)", text, re.MULTILINE))
            rest = everything.replace(text, "")
            assert any(re.search(rf"\b{name}\b", rest) for name in ", ".join(names).split(", "))

    def test_writes_only_below_its_last_check(self, file: Path) -> None:
        _, everything = joined(file)
        _, body = parts(file)
        # With a refusal the script ends: to keep that as the request's outcome is its last check.
        text = re.sub(KEPT_REFUSAL, "", "\n".join(body))
        found = writers(everything)
        for name in [name for name, function in found.items() if MARKER in function]:
            # What a script that serves several requests does for one.
            one = re.sub(KEPT_REFUSAL, "", found.pop(name))
            around = text.replace(one, "")
            assert not WRITE.search(around)
            assert not calls("\n" + around, set(found))
            text = one
        checks, marker, rest = text.partition(MARKER)
        for name, function in found.items():
            # What writes can't refuse: it is called where nothing may fail.
            assert not re.search(r"\berror\(|refuse\(", function), name
            assert not replies([function]), name
            checks = checks.replace(function, "")
        if marker or WRITE.search(text) or calls("\n" + text, set(found)):
            below = rest if marker else text
            assert not re.search(r"\berror\(|refuse\(", below)
            assert not replies([below])
        if marker:
            assert not WRITE.search(checks)
            assert not calls("\n" + checks, set(found))


def test_the_marker_is_held_to() -> None:
    """The check above would see a write, and a call that leads to one, above the last check."""
    _, everything = joined(scripts.FOLDER / "cart_add.lua")
    found = set(writers(everything))
    assert {"hold", "carry_out", "remove_line", "keep", "tell", "close_as"} <= found
    assert not {"decide", "room", "open_line", "not_now"} & found
    assert calls("\n  carry_out(cart, line)\n", found)
    assert WRITE.search("redis.call('HSET', cart.key, 'x', 1)")
    assert not WRITE.search("redis.call('HMGET', cart.key, 'x')")


def test_the_shared_keys_stand_in_the_order_of_the_header() -> None:
    header, _ = parts(scripts.FOLDER / "lib/bucket.lua")
    names = re.findall(r"^KEYS\[\d+\]\s+(\w+)", "\n".join(header), re.MULTILINE)
    bucket = Bucket("default")
    assert [getattr(bucket, name) for name in names] == list(bucket.shared)


def test_scripts_and_python_have_the_same_constants() -> None:
    text = "".join(piece.read_text() for piece in PIECES)
    found = {
        name: int(value) for name, value in re.findall(r"^local ([A-Z_]+) = (\d+)", text, re.M)
    }
    assert found == {"ID_STEP": CART_ID_STEP, "MAX_LINE": MAX_LINE, "MAX_UNITS": MAX_QUANTITY}


def test_python_knows_every_reply_and_its_facts() -> None:
    given = set().union(*(replies(parts(file)[1]) for file in [*SCRIPTS, *PIECES]))
    assert given == {(code, len(error.facts)) for code, error in REPLIES.items()}


def test_every_refusal_has_a_reply() -> None:
    kinds = set(Refused.__subclasses__())
    # UnknownSku and UnknownLetter are PostgreSQL's to say. A cart that changed is told, as a read
    # would tell it. What is closed may be known to PostgreSQL only, and a tenant is.
    others = {UnknownSku, UnknownLetter, NotEmpty, CartChanged, CartClosed, UnknownTenant}
    others.add(VerifyRunning)  # A process knows that by itself.
    found = {error for error in REPLIES.values() if issubclass(error, Refused)}
    assert found == kinds - others | {SoldOut}


def test_errors_print_their_facts() -> None:
    error: CartError = REPLIES["OUT_OF_STOCK"]("lamp", 5, 2)
    assert str(error) == "OutOfStock(sku='lamp', free=5, in_cart=2)"


@pytest.mark.parametrize("file", ["lib/bucket.lua", "lib/catalogue.lua", "cart_add.lua"])
def test_an_error_names_its_own_file_and_line(file: str) -> None:
    script = scripts.load("cart_add")
    lines = scripts.read(file).splitlines()
    number = next(n for n, text in enumerate(lines, 1) if text.startswith("local ") and n > 5)
    joined_at = script.source.splitlines().index(lines[number - 1]) + 1
    assert script.located(f"ERR user_script:{joined_at}: oh") == f"ERR {file}:{number}: oh"


async def test_a_flushed_script_cache_goes_unnoticed(shop: Shop) -> None:
    await shop.sell()
    await shop.add()
    await shop.redis.script_flush()
    assert (await shop.add()).total_quantity == 2
    sha = shop.runner.script("cart_add").sha
    assert await shop.redis.script_exists(sha) == [True]


async def test_redis_that_is_not_there_is_outcome_unknown() -> None:
    runner = Runner(scripts.connect("redis://127.0.0.1:1/0", timeout_s=1), timeout_s=1)
    with pytest.raises(OutcomeUnknown, match="can't be reached"):
        await runner.run("cart_add", ["k"], [LAMP])
    await runner.aclose()
