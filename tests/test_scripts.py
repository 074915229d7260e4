"""The scripts' headers and reply codes are held to their bodies, and to Python."""

import re
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from cartsvc import scripts
from cartsvc.errors import REPLIES, CartError, OutcomeUnknown
from cartsvc.scripts import Runner
from tests.shop import LAMP, Shop

FILES = sorted(scripts.FOLDER.glob("*.lua"))
CODE = re.compile(r"\{ ?'([A-Z_]+)'((?:, [^}]*?)?) ?\}")


def replies(lines: list[str]) -> set[tuple[str, int]]:
    """(code, number of facts behind it) of every reply in a header or a body."""
    without_calls = re.sub(r"\([^()]*\)", "", "\n".join(lines))
    return {(code, facts.count(",")) for code, facts in CODE.findall(without_calls)}


def parts(file: Path) -> tuple[list[str], list[str]]:
    """The header's lines without their dashes, and the lines of the body."""
    first, *lines = file.read_text().splitlines()
    assert first == "#!lua"
    header = []
    for line in lines:
        if not line.startswith("--"):
            break
        header.append(line.removeprefix("--").strip())
    return header, lines[len(header) :]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
class TestHeader:
    def test_begins_with_name_and_purpose(self, file: Path) -> None:
        header, _ = parts(file)
        assert re.match(rf"{file.stem}: [a-z].+", header[0])

    def test_names_the_keys_and_arguments_that_the_body_reads(self, file: Path) -> None:
        header, body = parts(file)
        declared = {
            (kind, int(index), plus): name
            for line in header
            for kind, index, plus, name in re.findall(r"^(KEYS|ARGV)\[(\d+)(\+?)\]\s+(\w+)", line)
        }
        named = {
            (kind, int(index), ""): name
            for names, values in re.findall(
                r"^local ([\w, ]+) = ((?:(?:tonumber\()?(?:KEYS|ARGV)\[\d+\]\)?(?:, )?)+)$",
                "\n".join(body),
                re.MULTILINE,
            )
            for name, (kind, index) in zip(
                names.split(", "), re.findall(r"(KEYS|ARGV)\[(\d+)\]", values), strict=True
            )
        }
        assert {key: name for key, name in declared.items() if not key[2]} == named

    def test_a_list_begins_right_behind_what_is_single(self, file: Path) -> None:
        header, body = parts(file)
        for kind in ("KEYS", "ARGV"):
            indexes = re.findall(rf"^{kind}\[(\d+)(\+?)\]", "\n".join(header), re.MULTILINE)
            assert [int(index) for index, _ in indexes] == list(range(1, len(indexes) + 1))
            assert [plus for _, plus in indexes[:-1]] == [""] * (len(indexes) - 1)
            reads_a_list = re.search(rf"{kind}\[[^\]]*\b(i|first_field)\b", "\n".join(body))
            assert bool(reads_a_list) == bool(indexes and indexes[-1][1])

    def test_names_the_replies_that_the_body_gives(self, file: Path) -> None:
        header, body = parts(file)
        assert replies(header) == replies(body)

    def test_makes_no_key_and_uses_no_cjson(self, file: Path) -> None:
        _, body = parts(file)
        text = "\n".join(body)
        assert "cjson" not in text
        for key in re.findall(r"redis\.call\('\w+', ([^,)]+)", text):
            assert re.fullmatch(r"[a-z_]+", key), f"{key} is not a name given to a KEYS[n]"

    def test_writes_only_below_its_last_check(self, file: Path) -> None:
        _, body = parts(file)
        text = "\n".join(body)
        checks, marker, rest = text.partition("-- Nothing below may fail")
        writes = re.compile(r"redis\.call\('(?!(?:EXISTS|GET|HGET|HMGET|HGETALL)')")
        refuses = re.compile(r"error_reply|return \{ '(?!OK')")
        if marker:
            assert not writes.search(checks)
            assert not refuses.search(rest)
        else:
            assert not refuses.search(text)


def test_python_knows_every_reply_and_its_facts() -> None:
    given = set().union(*(replies(parts(file)[1]) for file in FILES))
    assert given == {("OK", 1), *((code, len(error.facts)) for code, error in REPLIES.items())}


def test_every_refusal_has_a_reply() -> None:
    from cartsvc.errors import Refused, UnknownSku

    leaves = {error for error in Refused.__subclasses__() if not error.__subclasses__()}
    # UnknownSku is PostgreSQL's to say: the catalogue is there.
    assert leaves - {UnknownSku} == {e for e in REPLIES.values() if issubclass(e, Refused)}


def test_errors_print_their_facts() -> None:
    error: CartError = REPLIES["OUT_OF_STOCK"]("lamp", 5, 2)
    assert str(error) == "OutOfStock(sku='lamp', free=5, in_cart=2)"


async def test_a_flushed_script_cache_goes_unnoticed(shop: Shop) -> None:
    await shop.sell()
    await shop.add()
    await shop.redis.script_flush()
    assert (await shop.add()).total_quantity == 2
    sha = shop.runner.script("cart_add").sha
    assert await shop.redis.script_exists(sha) == [True]


async def test_redis_that_is_not_there_is_outcome_unknown() -> None:
    redis = scripts.connect("redis://127.0.0.1:1/0", timeout_s=1)
    with pytest.raises(OutcomeUnknown) as unknown:
        await Runner(redis, timeout_s=1).run("cart_add", ["k"], [LAMP])
    assert isinstance(unknown.value.__cause__, RedisConnectionError)
    await redis.aclose()
