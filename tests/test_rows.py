"""Rows of a file: NDJSON, a JSON array and CSV, each with its line, good or bad."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest

from cartsvc import catalog, rows
from cartsvc.catalog import ProductRow, VariantRow
from cartsvc.rows import Row

BOM = b"\xef\xbb\xbf"
CHUNK = 1 << 16
COLUMNS = ("id", "name", "price", "active", "stock", "images", "variants")

Fields = dict[str, Any]


def item(id_: str | int = "mug", **fields: Any) -> Fields:
    return {"id": id_, "name": "Camping Mug", "price": "12.50", **fields}


def as_ndjson(*items: Fields) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in items)


def as_array(*items: Fields) -> bytes:
    return b"[\n" + b",\n".join(json.dumps(one).encode() for one in items) + b"\n]\n"


def as_csv(*items: Fields) -> bytes:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for one in items:
        cells = {k: json.dumps(v) if isinstance(v, list | bool) else v for k, v in one.items()}
        table.writerow(cells)
    return text.getvalue().encode()


FORMATS = [
    pytest.param(as_ndjson, id="ndjson"),
    pytest.param(as_array, id="array"),
    pytest.param(as_csv, id="csv"),
]
every_format = pytest.mark.parametrize("written", FORMATS)

Written = Callable[..., bytes]


def read(data: bytes) -> list[Row]:
    return list(rows.read(io.BytesIO(data)))


def seen(found: Iterable[Row]) -> list[tuple[int, str | int | None]]:
    """(line, id) of each row whose product can be made, (line, None) of each other."""
    return [(row.line, id_of(row)) for row in found]


def id_of(row: Row) -> str | int | None:
    if row.row is None:
        assert row.problem
        return None
    try:
        catalog.product(row.row, "USD")
    except ValueError:
        return None
    return row.row.id


class Feed(io.RawIOBase):
    """A stream that gives one piece at a time, as a pipe does, and counts what it gave."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        # An empty piece would say that this is the end.
        self.pieces = filter(None, pieces)
        self.rest = b""
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self.rest or next(self.pieces, b"")
        size = min(len(piece), len(buffer))
        buffer[:size], self.rest = piece[:size], piece[size:]
        self.given += size
        return size


@every_format
def test_every_field_is_read(written: Written) -> None:
    variants = [{"id": "s", "name": "Small", "price": "9.99", "stock": 3}, {"id": "m"}]
    full = item(active=False, stock=5, images=["a.jpg", "b.jpg"], variants=variants)
    first, second = read(written(full, item("lamp")))
    assert first.row == ProductRow(
        id="mug",
        name="Camping Mug",
        price=Decimal("12.50"),
        active=False,
        stock=5,
        images=["a.jpg", "b.jpg"],
        variants=[VariantRow("s", "Small", Decimal("9.99"), 3), VariantRow("m")],
    )
    assert second.row == ProductRow(id="lamp", name="Camping Mug", price=Decimal("12.50"))


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":1,"name":"Mug","price":12.10}',
        b'[{"id":1,"name":"Mug","price":12.10}]',
        b"id,name,price\n1,Mug,12.10\n",
    ],
)
def test_a_price_is_what_is_written_not_the_nearest_float(data: bytes) -> None:
    [row] = read(data)
    assert row.row is not None
    assert str(row.row.price) == "12.10"


def test_a_number_in_csv_keeps_its_zeros_where_it_is_an_id() -> None:
    assert seen(read(b"id,name,price\n007,Mug,1\n1e3,Mug,1\n")) == [(2, "007"), (3, "1e3")]


@every_format
def test_a_byte_order_mark_is_no_part_of_the_first_row(written: Written) -> None:
    data = written(item("mug"), item("lamp"))
    assert read(BOM + data) == read(data)
    assert [id_ for _, id_ in seen(read(BOM + data))] == ["mug", "lamp"]


@every_format
def test_lines_may_end_as_on_windows(written: Written) -> None:
    data = written(item("mug"), item("lamp", price="x"), item("tee"))
    assert seen(read(data.replace(b"\n", b"\r\n"))) == seen(read(data))


@every_format
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "marked"])
def test_a_stream_may_give_a_byte_at_a_time(written: Written, mark: bytes) -> None:
    data = mark + written(item("mug"), item("größe", name="Größe 👕"), item("tee"))
    trickle = Feed(data[at : at + 1] for at in range(len(data)))
    assert list(rows.read(io.BufferedReader(trickle))) == read(data)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b'\n \r\n{"id":1,"name":"a","price":1}\n\n\n{"id":2}\n\n', [(3, 1), (6, None)]),
        (b'\n[\n\n{"id":1,"name":"a","price":1}\n\n,\n\n{"id":2}\n]', [(4, 1), (8, None)]),
        (b"id,name,price\n\n\n1,a,1\n\n\n2,a,x\n\n", [(4, "1"), (7, None)]),
    ],
    ids=["ndjson", "array", "csv"],
)
def test_blank_lines_are_counted_and_are_no_rows(
    data: bytes, lines: list[tuple[int, str | int | None]]
) -> None:
    assert seen(read(data)) == lines


@every_format
def test_a_bad_row_does_not_end_the_file(written: Written) -> None:
    bad = [item(price="cheap"), item(price="-1"), item("a:b"), item(stock="many"), item(variants=7)]
    data = written(item("mug"), *bad, item("lamp"))
    # The first line of CSV and of the array is none of a row.
    first = 1 if written is as_ndjson else 2
    assert seen(read(data)) == [
        (first, "mug"),
        *((first + number, None) for number in range(1, 6)),
        (first + 6, "lamp"),
    ]


def test_a_line_that_is_no_json_object_is_a_bad_row() -> None:
    data = b'{"id":1,"name":"a","price":1}\nnope\n[]\n{"id":2\n{"id":3,"name":"a","price":1}'
    assert seen(read(data)) == [(1, 1), (2, None), (3, None), (4, None), (5, 3)]


def test_an_element_that_is_no_object_is_a_bad_row() -> None:
    data = b'[1,\n"mug",\nnull,\n[],\n{"id":3,"name":"a","price":1}]'
    assert seen(read(data)) == [(1, None), (2, None), (3, None), (4, None), (5, 3)]


def test_an_element_of_many_lines_is_told_by_its_first() -> None:
    data = json.dumps([item("mug"), item(price="x"), item("lamp"), {}], indent=2).encode()
    assert seen(read(data)) == [(2, "mug"), (7, None), (12, "lamp"), (17, None)]


def test_a_row_with_cells_of_many_lines_is_told_by_its_first() -> None:
    data = b'id,name,price\nmug,"Mug\n1",1\ntee,"Tee\r\nof\nwool",x\nlamp,Lamp,1\nhat,Hat,x\n'
    assert seen(read(data)) == [(2, None), (4, None), (7, "lamp"), (8, None)]


@pytest.mark.parametrize(
    "bad",
    [b'hat,"Hat"s,1', b"hat," + b"x" * 200_000 + b",1", b"hat,Hat,1,too,many", b"hat", b"hat,Hat"],
    ids=["quotes", "length", "too many cells", "one cell", "too few cells"],
)
def test_a_line_that_is_no_csv_does_not_move_those_behind_it(bad: bytes) -> None:
    data = b"id,name,price\nmug,Mug,1\n" + bad + b"\n" + bad + b"\nlamp,Lamp,1\ntee,Tee,x\n"
    assert seen(read(data)) == [(2, "mug"), (3, None), (4, None), (5, "lamp"), (6, None)]


def test_cells_beyond_the_columns_are_told() -> None:
    [row] = read(b"id,name,price\nmug,Mug,1,2\n")
    assert (row.row, row.problem) == (None, "more cells than the first line has columns")


def test_a_quote_that_is_never_closed_is_told_by_its_line() -> None:
    data = b'id,name,price\nmug,Mug,1\ntee,"Tee,1\nlamp,Lamp,1\n'
    assert seen(read(data)) == [(2, "mug"), (3, None)]


@pytest.mark.parametrize("cell", ["[", "a.jpg", "{}", "[1]", "[" * 100_000])
def test_lists_in_cells_are_json(cell: str) -> None:
    data = f'id,name,price,images\nmug,Mug,1,"{cell}"\nlamp,Lamp,1,"[""a.jpg""]"\n'.encode()
    assert seen(read(data)) == [(2, None), (3, "lamp")]


@pytest.mark.parametrize("header", [b"id,name", b"ID,Name,Price", b"mug,Mug,1"])
def test_csv_must_name_its_columns(header: bytes) -> None:
    [refused] = read(header + b"\nlamp,Lamp,1\ntee,Tee,1\n")
    assert (refused.line, refused.row) == (1, None)
    assert "id, name and price" in refused.problem


@pytest.mark.parametrize(
    "header",
    [b'id,name,"price"s', b'"id,name,price', b"id,name,price," + b"x" * 200_000],
    ids=["quotes", "quote that is never closed", "length"],
)
def test_a_first_line_that_is_no_csv_is_the_one_bad_row(header: bytes) -> None:
    assert seen(read(header + b"\nlamp,Lamp,1\ntee,Tee,1\n")) == [(1, None)]


def test_an_empty_file_is_no_catalogue() -> None:
    assert seen(read(b"")) == [(1, None)]


BYTES = b"Caf\xe9"
"""Latin-1, which is not UTF-8."""


@every_format
def test_bytes_that_are_not_utf_8_cost_only_their_row(written: Written) -> None:
    data = written(item("mug"), item("hat", name="HERE"), item("HERE"), item("lamp", name="Café"))
    lines = [line for line, _ in seen(read(data))]
    found = seen(read(data.replace(b"HERE", BYTES)))
    assert found == list(zip(lines, ["mug", None, None, "lamp"], strict=True))


@every_format
def test_a_price_that_is_not_utf_8_costs_only_its_row(written: Written) -> None:
    found = read(written(item("mug", price="HERE"), item("lamp")).replace(b"HERE", BYTES))
    assert [id_ for _, id_ in seen(found)] == [None, "lamp"]


@pytest.mark.parametrize(
    "data",
    [
        b'{"id":1,"name":"\\ud800","price":1}\n{"id":2,"name":"\\ud83d\\udc55","price":1}',
        b'[{"id":1,"name":"\\ud800","price":1},\n{"id":2,"name":"\\ud83d\\udc55","price":1}]',
        b'[{"id":1,"name":"a","price":1,"\\udfff":1},\n{"id":2,"name":"a","price":1}]',
        b'[{"id":1,"name":"a","price":1,"variants":[{"id":1,"name":"\\ud800"}]},\n'
        b'{"id":2,"name":"a","price":1}]',
    ],
    ids=["ndjson", "array", "name of a field", "variant"],
)
def test_half_a_surrogate_pair_costs_only_its_row(data: bytes) -> None:
    assert seen(read(data)) == [(1, None), (2, 2)]


def test_half_a_surrogate_pair_in_a_cell_costs_only_its_row() -> None:
    data = rb"id,name,price,images" + b'\n1,a,1,"[""\\ud800""]"\n2,a,1,"[""a""]"\n'
    assert seen(read(data)) == [(2, None), (3, "2")]


@pytest.mark.parametrize("price", ["1e400", "1e99999999999999999999", "NaN", "-Infinity"])
@pytest.mark.parametrize(
    "data",
    [
        '{"id":1,"name":"a","price":PRICE}\n{"id":2,"name":"a","price":1}',
        '[{"id":1,"name":"a","price":PRICE},\n{"id":2,"name":"a","price":1}]',
        "id,name,price\n1,a,PRICE\n2,a,1",
        'id,name,price,variants\n1,a,1,"[{""id"":1,""price"":PRICE}]"\n2,a,1',
    ],
    ids=["ndjson", "array", "csv", "variant in csv"],
)
def test_a_number_that_is_no_price_costs_only_its_row(data: str, price: str) -> None:
    found = seen(read(data.replace("PRICE", price).encode()))
    assert [str(id_) for _, id_ in found] == ["None", "2"]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'[\n{"id":1,"name":"a","price":1}\n{"id":2,"name":"a","price":1}]', 3),
        (b'[\n{"id":1,"name":"a","price":1}\n', 3),
        (b'[\n{"id":1,"name":"a","price":1},\n\n', 4),
        (b'[\n{"id":1,"name":"a","price":1},\n\n{"id":2,\n"name":"a"\n', 4),
        (b'[\n{"id":1,"name":"a","price":1},\n{"id":2,\n"name" "a"},\n{"id":3}]', 3),
        (b'[\n{"id":1,"name":"a","price":1},\nid,name]', 3),
    ],
    ids=["no comma", "no end", "nothing behind the comma", "cut off", "no colon", "no JSON"],
)
def test_an_array_that_is_broken_is_read_up_to_there(data: bytes, line: int) -> None:
    found = read(data)
    assert seen(found) == [(2, 1), (line, None)]
    assert "xpect" in found[1].problem


def test_an_array_may_be_empty() -> None:
    assert read(b" [\n] ") == []


def test_elements_may_lie_across_two_chunks() -> None:
    element = '{"id":"größe","name":"\\"👕\\"","price":12.5},\n77,\n'.encode()
    end = b'{"id":"last","name":"a","price":1}]'
    for cut in range(len(element)):
        first = b'[{"id":"first","name":"","price":1},\n'
        padded = first.replace(b'""', b'"' + b"x" * (CHUNK - len(first) - cut) + b'"')
        found = read(padded + element + end)
        assert [row.line for row in found] == [1, 2, 3, 4]
        assert found[1].row == ProductRow(id="größe", name='"👕"', price=Decimal("12.5"))
        assert (found[2].row, found[3].row and found[3].row.id) == (None, "last")


def test_an_element_may_be_longer_than_a_chunk() -> None:
    long = item(name="x" * 5 * CHUNK)
    found = read(as_array(item("mug"), long, item("lamp")))
    assert [row.row and len(row.row.name) for row in found] == [11, 5 * CHUNK, 11]
    assert [row.line for row in found] == [2, 3, 4]


def test_an_element_that_never_ends_is_given_up() -> None:
    def endless() -> Iterator[bytes]:
        yield b'[{"id":"mug","name":"Mug","price":1},\n{"name":"'
        while True:
            yield b"x" * CHUNK

    feed = Feed(endless())
    assert seen(rows.read(io.BufferedReader(feed))) == [(1, "mug"), (2, None)]
    assert feed.given < 3 * rows.MAX_ROW_CHARS


COUNT = 100_000


@pytest.mark.parametrize(
    ("head", "row", "tail"),
    [
        (b"", b'{"id":"%06d","name":"Enamel Camping Mug","price":12.50}\n', b""),
        (b"[\n", b'{"id":"%06d","name":"Enamel Camping Mug","price":12.50},\n', b"{}]"),
        (b"id,name,price,image_url\n", b"%06d,Enamel Camping Mug,12.50,https://cdn/mug\n", b""),
    ],
    ids=["ndjson", "array", "csv"],
)
def test_reads_little_ahead_of_the_rows_it_has_given(head: bytes, row: bytes, tail: bytes) -> None:
    feed = Feed(chain([head], (row % number for number in range(COUNT)), [tail]))
    width = len(row % 0)
    ahead = []
    for number, found in enumerate(rows.read(io.BufferedReader(feed)), 1):
        if number <= COUNT:
            assert found.row is not None
            assert found.row.id == f"{number - 1:06d}"
            ahead.append(feed.given - len(head) - number * width)
    assert len(ahead) == COUNT
    assert max(ahead) < 4 * CHUNK < COUNT * width / 10
