"""What a contract is, and how contracts become routes."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cartsvc.errors import Invalid
from cartsvc.http import Endpoint, Handle, Refuse


class Parameter(NamedTuple):
    """A parameter as `openapi` tells of it: in the "header", "query" or "path", of type `kind`.

    One that is in the path belongs to the operations whose path names it.
    """

    name: str
    place: str
    description: str
    required: bool = False
    kind: Any = str


class Operation(NamedTuple):
    """What a contract does at a path by a method, and what `openapi` tells of it.

    `success` (a Struct) and `status` are the answer's, `body` is the request's; None where there is
    none. `refusals` are the statuses beside those that any of the contract's operations may give.
    One that does the same again when it is repeated may go without idempotency keys (`by_key`).
    """

    method: str
    path: str
    handle: Handle
    summary: str
    success: Any
    refusals: tuple[int, ...] = ()
    body: Any = None
    status: int = 200
    parameters: tuple[Parameter, ...] = ()
    by_key: bool = True

    @property
    def changes(self) -> bool:
        """Whether it changes something; then a request may have an idempotency key."""
        return self.method != "GET" and self.by_key


class Contract(NamedTuple):
    """An HTTP contract: its operations, and `refuse`, which puts an error into its words.

    `refusal` is the Struct of which the bodies of its errors are. `header` is what its requests
    carry, where another contract has the same paths. `parameters` are those of all operations;
    `bearer` says whether a token is "required", "optional" or not looked at (""), and `to_owners`
    whether answers tell carts' owners what became of their lines.
    """

    name: str
    title: str
    operations: Sequence[Operation]
    refuse: Refuse
    refusal: Any
    header: str = ""
    parameters: tuple[Parameter, ...] = ()
    bearer: str = ""
    to_owners: bool = True


def routes(contracts: Iterable[Contract], max_body_bytes: int) -> list[Route]:
    """A route for each path; where contracts share one, a request's headers say which is meant."""
    paths: dict[str, list[tuple[str, Endpoint]]] = {}
    for contract in contracts:
        for path in dict.fromkeys(operation.path for operation in contract.operations):
            methods = {one.method: one.handle for one in contract.operations if one.path == path}
            endpoint = Endpoint(contract.name, path, methods, contract.refuse, max_body_bytes)
            paths.setdefault(path, []).append((contract.header, endpoint))
    found = []
    for path, endpoints in paths.items():
        app: ASGIApp = endpoints[0][1] if len(endpoints) == 1 else ByHeader(endpoints)
        found.append(Route(path, app))
    return found


class ByHeader:
    """One path of several contracts: the first whose header the request has answers it."""

    def __init__(self, endpoints: Sequence[tuple[str, Endpoint]]) -> None:
        self.endpoints = [(name.lower().encode(), endpoint) for name, endpoint in endpoints]
        names = " or ".join(name for name, _ in endpoints)
        self.nobody = Invalid(names, "header is required")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = {name for name, _ in scope["headers"]}
        for name, endpoint in self.endpoints:
            if name in sent:
                return await endpoint(scope, receive, send)
        _, first = self.endpoints[0]
        return await first.turn_away(self.nobody, scope, send)
