"""Rows of a catalogue file: NDJSON, a JSON array or CSV, told apart by its first character.

Read in pieces: a file of any length needs the memory of one row. Rows come with the line on which
they begin; one that can't be read comes as the reason why.
"""

import csv
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, BinaryIO, NamedTuple, cast

import msgspec

from cartsvc.catalog import ProductRow, row_of

MAX_ROW_CHARS = 4_000_000
"""A JSON array whose element is longer than this is not a catalogue."""

_CHUNK = 1 << 16
_REQUIRED = {"id", "name", "price"}
_LISTS = {"images", "variants"}

_BOM = b"\xef\xbb\xbf"

_ndjson = msgspec.json.Decoder(ProductRow)


def _decimal(text: str) -> Decimal:
    """A number of a JSON text; one that no price can be is its row's fault, not the file's."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return Decimal("Infinity")


def _int(text: str) -> int | Decimal:
    return int(text) if len(text) < 20 else Decimal("Infinity")


_json = json.JSONDecoder(parse_float=_decimal, parse_int=_int)


class Row(NamedTuple):
    """`row` is None where `problem` says what is wrong with the line."""

    line: int
    row: ProductRow | None
    problem: str = ""


def read(file: BinaryIO) -> Iterator[Row]:
    """The rows of a catalogue file."""
    head = b""
    # A pipe may give a byte at a time: go on until there is a character that tells.
    while len(head) < len(_BOM) or not head.removeprefix(_BOM).strip():
        piece = file.read(_CHUNK)
        if not piece:
            break
        head += piece
    reader = cast(BinaryIO, io.BufferedReader(_Rejoined(head, file)))
    match head.removeprefix(_BOM).lstrip()[:1]:
        case b"[":
            return _array(_text(reader))
        case b"{":
            return _lines(reader)
        case _:
            return _csv(_text(reader, newline=""))


class _Rejoined(io.RawIOBase):
    """A stream with what was read of it in front again."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _text(reader: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    # Bytes that are not UTF-8 become surrogates, which the row's own check refuses: one bad row
    # does not end the file.
    return io.TextIOWrapper(reader, encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _lines(reader: BinaryIO) -> Iterator[Row]:
    for number, line in enumerate(reader, 1):
        text = line.removeprefix(_BOM) if number == 1 else line
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
        except json.JSONDecodeError as error:
            yield Row(line, None, f"not JSON: {error.msg}")
            return
        except RecursionError:
            yield Row(line, None, "nested too deeply")
            return
        yield _converted(line, element)
        if window.next() == ",":
            window.skip()
        elif window.next() != "]":
            yield Row(window.line, None, "expected ',' or ']' after an element")
            return
    window.skip()
    if window.next():
        yield Row(window.line, None, "there is more behind the end of the array")


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
    names: list[str] = []
    for line, cells, problem in _csv_lines(csv.reader(file, strict=True)):
        if problem and names:
            yield Row(line, None, problem)
        elif names:
            yield _csv_row(line, names, cells)
        elif not set(cells) >= _REQUIRED:
            yield Row(line, None, problem or _NO_NAMES)
            return
        else:
            names = cells
    if not names:
        yield Row(1, None, _NO_NAMES)


_NO_NAMES = "the first line must name the columns: at least id, name and price"


def _csv_lines(table: Any) -> Iterator[tuple[int, list[str], str]]:
    """(line on which it begins, cells, problem) of every line that is not blank."""
    while True:
        line = table.line_num + 1
        try:
            cells = next(table, None)
        except csv.Error as error:
            yield line, [], str(error)
            continue
        if cells is None:
            return
        if cells:
            yield line, cells, ""


def _csv_row(line: int, names: list[str], cells: list[str]) -> Row:
    if len(cells) > len(names):
        return Row(line, None, "more cells than the first line has columns")
    fields: dict[str, object] = {
        name: cell for name, cell in zip(names, cells, strict=False) if cell
    }
    for name in _LISTS & set(fields):
        try:
            fields[name] = _json.decode(str(fields[name]))
        except (ValueError, RecursionError):
            return Row(line, None, f"{name} is not a JSON array")
    return _converted(line, fields, from_text=True)


def _converted(line: int, fields: object, *, from_text: bool = False) -> Row:
    try:
        return Row(line, row_of(fields, from_text=from_text))
    except (msgspec.ValidationError, ValueError) as error:
        return Row(line, None, str(error))
