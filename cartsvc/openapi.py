"""The contracts described to machines: OpenAPI 3.1, of what a `Contract` says of itself.

Where contracts share a path they are one operation here, with `anyOf` of their bodies.
"""

import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

import msgspec

from cartsvc import __version__, contracts, http
from cartsvc.contract import Contract, Operation, Parameter

ALWAYS = (500, 503)
"""What any operation may answer."""

TOO_LARGE = 413
"""What any operation with a body may answer."""

BY_KEY = (400, 422, 429)
"""What any operation that changes a cart may answer to a request with an idempotency key."""

_KEY = Parameter(
    http.IDEMPOTENCY_KEY,
    "header",
    "a request that is sent again with its key is carried out once, and answered as it was first",
    kind=http.Key,
)

_ABOUT = (
    "Carts for flash sales. Contracts that share a path are told apart by a header of the request. "
    "405, with `Allow`, answers a method that a path does not take. Every answer has "
    "`X-Request-ID`: the request's own, or one that it was given."
)

_SESSION = "X-Session-ID"

_HEADERS: Mapping[str, tuple[str, type]] = {
    _SESSION: ("the session that the cart belongs to", str),
    "X-Cart-Notice": ("lines that left the cart by themselves: reason; sku=...; quantity=...", str),
    "X-Total-Count": ("how many there are on all pages", int),
    "X-Total-Pages": ("how many pages there are", int),
    "Retry-After": ("seconds after which to try again", int),
    "Idempotent-Replay": ("true: the request had been answered before, like this", str),
}


class _Examples(msgspec.Struct):
    """Bodies of one operation, as they stand in the file: `answers` by status and name."""

    answers: dict[str, dict[str, msgspec.Raw]] = {}
    request: msgspec.Raw = msgspec.Raw()


class _Dialect(NamedTuple):
    """A contract; `schemas` are those of its types, `examples` by "METHOD path"."""

    contract: Contract
    about: str
    schemas: Mapping[Any, Any]
    examples: Mapping[str, _Examples]


class _Told(NamedTuple):
    """An operation, in a contract's words."""

    dialect: _Dialect
    operation: Operation

    @property
    def title(self) -> str:
        return self.dialect.contract.title

    @property
    def examples(self) -> _Examples:
        name = f"{self.operation.method} {self.operation.path}"
        return self.dialect.examples.get(name, _Examples())

    def answers(self) -> dict[int, Any]:
        """The type of the body by status; None where there is no body."""
        one, refusal = self.operation, self.dialect.contract.refusal
        too_large = () if one.body is None else (TOO_LARGE,)
        token = (HTTPStatus.UNAUTHORIZED,) if self.dialect.contract.bearer else ()
        by_key = BY_KEY if one.changes else ()
        refused = dict.fromkeys((*one.refusals, *token, *too_large, *by_key, *ALWAYS), refusal)
        return {one.status: one.success} | refused


def document(of: Sequence[Contract]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of contracts."""
    components: dict[str, Any] = {}
    dialects = [_dialect(contract, components) for contract in of]
    paths: dict[str, dict[str, list[_Told]]] = {}
    for dialect in dialects:
        for one in dialect.contract.operations:
            methods = paths.setdefault(one.path, {})
            methods.setdefault(one.method.lower(), []).append(_Told(dialect, one))
    return {
        "openapi": "3.1.0",
        "info": {"title": "cartsvc", "version": __version__, "description": _ABOUT},
        "tags": [{"name": one.contract.title, "description": one.about} for one in dialects],
        "paths": {
            path: {method: _operation(told) for method, told in methods.items()}
            for path, methods in paths.items()
        },
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": about, "schema": msgspec.json.schema(kind)}
                for name, (about, kind) in _HEADERS.items()
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _dialect(contract: Contract, components: dict[str, Any]) -> _Dialect:
    """What a contract says of itself; the schemas of its Structs go to `components`.

    Contracts have Structs of the same names: here they begin with their contract's.
    """
    module = importlib.import_module(f"{contracts.__name__}.{contract.name}")
    kinds = [
        kind
        for one in contract.operations
        for kind in (
            one.success,
            one.body,
            *(asked.kind for asked in _parameters_of(contract, one)),
        )
        if kind is not None
    ]
    kinds = list(dict.fromkeys((*kinds, contract.refusal)))
    prefix = contract.name.capitalize()
    schemas, structs = msgspec.json.schema_components(
        kinds, ref_template=f"#/components/schemas/{prefix}{{name}}"
    )
    for name, schema in structs.items():
        components[prefix + name] = _plain(schema)
    examples = _examples(resources.files(contracts) / f"{contract.name}.json")
    about = (module.__doc__ or "").partition("\n")[0]
    return _Dialect(contract, about, dict(zip(kinds, schemas, strict=True)), examples)


def _plain(schema: Any) -> Any:
    """Amounts are numbers in every body, where msgspec would have them as text."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":
            return {"type": "number"}
        return {name: _plain(value) for name, value in schema.items()}
    return [_plain(value) for value in schema] if isinstance(schema, list) else schema


def _examples(file: Traversable) -> dict[str, _Examples]:
    """The contract's examples, as far as there are."""
    if not file.is_file():
        return {}
    compact = msgspec.json.format(file.read_bytes(), indent=-1)
    return msgspec.json.decode(compact, type=dict[str, _Examples])


def _operation(told: Sequence[_Told]) -> dict[str, Any]:
    """What one method of one path does, in every contract that has it."""
    first = told[0].operation
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", first.method.lower() + first.path).strip("_"),
        "summary": " / ".join(dict.fromkeys(one.operation.summary for one in told)),
        "tags": [one.title for one in told],
        "parameters": _parameters(told),
        "responses": _responses(told),
    }
    if len(told) > 1:
        headers = (f"{one.title} with `{one.dialect.contract.header}`" for one in told)
        found["description"] = f"Answered by {', else '.join(headers)}; 400 with neither."
    if security := _security(told):
        found["security"] = security
    if bodies := [one for one in told if one.operation.body is not None]:
        examples = {
            one.title: one.examples.request for one in bodies if bytes(one.examples.request)
        }
        kinds = [(one, one.operation.body) for one in bodies]
        found["requestBody"] = {"required": True, "content": _content(kinds, examples)}
    return found


def _parameters_of(contract: Contract, operation: Operation) -> list[Parameter]:
    """Those in the path, and the others that the contract tells of."""
    told = (*contract.parameters, *operation.parameters)
    in_path = {one.name: one for one in told if one.place == "path"}
    named = [
        in_path.get(name) or Parameter(name, "path", name.replace("_", " "))
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    others = [one for one in told if one.place != "path"]
    if operation.changes:
        others.append(_KEY)
    return [*(one._replace(required=True) for one in named), *others]


def _parameters(told: Sequence[_Told]) -> list[dict[str, Any]]:
    """The parameters of all; what only one contract requires may be left out of a request."""
    asked: dict[tuple[str, str], list[tuple[_Told, Parameter]]] = {}
    for one in told:
        for parameter in _parameters_of(one.dialect.contract, one.operation):
            asked.setdefault((parameter.place, parameter.name), []).append((one, parameter))
    return [
        {
            "name": name,
            "in": place,
            "description": same[0][1].description,
            "required": len(same) == len(told) and all(one.required for _, one in same),
            "schema": _any_of(one.dialect.schemas[parameter.kind] for one, parameter in same),
        }
        for (place, name), same in asked.items()
    ]


def _security(told: Sequence[_Told]) -> list[dict[str, Any]]:
    """A token, nothing, or either."""
    tokens = {one.dialect.contract.bearer for one in told}
    nothing: list[dict[str, Any]] = [] if tokens == {"required"} else [{}]
    return [] if tokens == {""} else [*nothing, {"bearer": []}]


def _responses(told: Sequence[_Told]) -> dict[str, Any]:
    statuses = sorted({status for one in told for status in one.answers()})
    return {str(status): _response(told, status) for status in statuses}


def _response(told: Sequence[_Told], status: int) -> dict[str, Any]:
    giving = [one for one in told if status in one.answers()]
    found: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if headers := dict.fromkeys(name for one in giving for name in _headers(one, status)):
        found["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in headers}
    if status != http.NO_CONTENT:
        examples = {
            name if len(told) == 1 else f"{one.title}: {name}": body
            for one in giving
            for name, body in one.examples.answers.get(str(status), {}).items()
        }
        kinds = [(one, one.answers()[status]) for one in giving]
        found["content"] = _content(kinds, examples)
    return found


def _headers(told: _Told, status: int) -> Iterable[str]:
    """The headers that an answer may have."""
    operation = told.operation
    asked = {one.name for one in _parameters_of(told.dialect.contract, operation)}
    if status == HTTPStatus.SERVICE_UNAVAILABLE or status == HTTPStatus.TOO_MANY_REQUESTS:
        yield "Retry-After"
    elif operation.changes:
        yield "Idempotent-Replay"
    if status != operation.status:
        return
    if "page" in asked:
        yield from ("X-Total-Count", "X-Total-Pages")
    elif status != http.NO_CONTENT:
        if _SESSION.lower() in asked:
            yield _SESSION
        if told.dialect.contract.to_owners:
            yield "X-Cart-Notice"


def _content(kinds: Iterable[tuple[_Told, Any]], examples: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"schema": _any_of(one.dialect.schemas[kind] for one, kind in kinds)}
    if examples:
        found["examples"] = {name: {"value": body} for name, body in examples.items()}
    return {"application/json": found}


def _any_of(schemas: Iterable[Any]) -> Any:
    different: list[Any] = []
    for schema in schemas:
        if schema not in different:
            different.append(schema)
    return different[0] if len(different) == 1 else {"anyOf": different}
