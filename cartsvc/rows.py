"""Rows of a catalogue file: NDJSON, a JSON array or CSV, told apart by its first character.

Read in pieces: a file of any length needs the memory of one row. Rows come with the line on which
they begin; one that can't be read comes as the reason why.
"""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO, NamedTuple

import msgspec

from cartsvc.catalog import ProductRow, row_of

MAX_ROW_CHARS = 4_000_000
"""A JSON array whose element is longer than this is not a catalogue."""

_CHUNK = 1 << 16
_LISTS = ("images", "variants")

_ndjson = msgspec.json.Decoder(ProductRow)
_json = json.JSONDecoder(parse_float=Decimal)


class Row(NamedTuple):
    """`row` is None where `problem` says what is wrong with the line."""

    line: int
    row: ProductRow | None
    problem: str = ""


def read(file: BinaryIO) -> Iterator[Row]:
    """The rows of a catalogue file."""
    reader = file if isinstance(file, io.BufferedReader) else io.BufferedReader(_Raw(file))
    head = reader.peek(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
        return _array(_text(reader))
    if head.startswith(b"{"):
        return _lines(reader)
    return _csv(_text(reader, newline=""))


class _Raw(io.RawIOBase):
    """A stream without `peek`, such as one in memory, as one that can be buffered."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _text(reader: io.BufferedReader, newline: str | None = None) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 become surrogates, which the row's own check refuses: one bad row
    # does not end the file.
    return io.TextIOWrapper(reader, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _lines(reader: io.BufferedReader) -> Iterator[Row]:
    for number, line in enumerate(reader, 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if text.strip():
            try:
                yield Row(number, _ndjson.decode(text))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Row(number, None, str(error))


def _array(file: io.TextIOWrapper) -> Iterator[Row]:
    """Elements of a JSON array. After one that is not JSON at all, the rest can't be told apart."""
    window = _Window(file)
    window.next()
    window.skip()  # the bracket that told that this is an array
    while window.next() != "]":
        line = window.line
        try:
            element = window.value()
        except (ValueError, RecursionError) as error:
            yield Row(line, None, str(error))
            return
        yield _converted(line, element)
        if window.next() == ",":
            window.skip()
        elif window.next() != "]":
            yield Row(window.line, None, "expected ',' or ']' after an element")
            return


class _Window:
    """The part of a JSON text that is being looked at; `line` is the line of its beginning."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self.file = file
        self.text = ""
        self.line = 1

    def next(self) -> str:
        """The first character that is not white space, or '' at the end; goes there."""
        while True:
            rest = self.text.lstrip()
            self.skip(len(self.text) - len(rest))
            if rest or not self._more():
                return rest[:1]

    def skip(self, characters: int = 1) -> None:
        self.line += self.text.count("\n", 0, characters)
        self.text = self.text[characters:]

    def value(self) -> object:
        """The JSON value that begins here; goes behind it."""
        while True:
            try:
                value, end = _json.raw_decode(self.text)
            except ValueError:
                if self._more():
                    continue
                raise
            # A number that ends with what was read may go on in what was not.
            if end < len(self.text) or not self._more():
                self.skip(end)
                return value

    def _more(self) -> bool:
        piece = "" if len(self.text) > MAX_ROW_CHARS else self.file.read(_CHUNK + len(self.text))
        self.text += piece
        return bool(piece)


def _csv(file: io.TextIOWrapper) -> Iterator[Row]:
    """Rows by the names in the first line; lists (`images`, `variants`) as JSON in their cell."""
    table = csv.DictReader(file, strict=True)
    if not {"id", "name", "price"} <= set(table.fieldnames or ()):
        yield Row(1, None, "the first line must name the columns: at least id, name and price")
        return
    while True:
        first = table.line_num + 1
        try:
            cells = next(table, None)
        except csv.Error as error:
            yield Row(first, None, str(error))
            continue
        if cells is None:
            return
        if None in cells:
            yield Row(first, None, "more cells than the first line has columns")
            continue
        filled = {name: cell for name, cell in cells.items() if cell}
        try:
            lists = {name: _json.decode(filled[name]) for name in _LISTS if name in filled}
        except (ValueError, RecursionError) as error:
            yield Row(first, None, f"images and variants are JSON arrays in their cell: {error}")
            continue
        yield _converted(first, {**filled, **lists}, from_text=True)


def _converted(line: int, fields: object, *, from_text: bool = False) -> Row:
    try:
        return Row(line, row_of(fields, from_text=from_text))
    except (msgspec.ValidationError, ValueError) as error:
        return Row(line, None, str(error))
