"""Requests that a machine makes up from the document: whatever they are, the service keeps to it.

Each is sent as it is, and again to carts and with products that there are.
"""

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from cartsvc import contracts, openapi
from cartsvc.core import Core
from cartsvc.ledger import Ledger
from cartsvc.model import LineRequest, Owner, item_id
from tests.callers import bearer
from tests.shop import LAMP, Shop

DOCUMENT = json.loads(msgspec.json.encode(openapi.document(contracts.all_of(Mock(spec=Core)))))
GENERATION = {
    "deterministic": True,
    "max-examples": 10,
    "database": "none",
    "allow-extra-parameters": False,  # What nobody asked for is ignored, and no mistake.
}
CONFIG = SchemathesisConfig.from_dict({"seed": 1, "generation": GENERATION})
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]
REFUSALS = [negative_data_rejection, ignored_auth]
"""Of a request as it was made up: what is wrong with it is noticed, a missing token too."""

CUSTOMER, SESSION, DEVICE = "101", "guest-session-123", "device-42"
SHOPPER = {"x-tenant-id": "default", "x-session-id": SESSION, **bearer(CUSTOMER)}
CALLERS = (
    SHOPPER,
    {"x-tenant-id": "default", "x-session-id": SESSION},
    {"DeviceID": DEVICE, **bearer("1", "user")},
    {"x-tenant-id": "default", **bearer("backoffice", "service")},
)

CART, DEVICES_CART = 256, 768
HERE = {
    "cart_id": CART,
    "cartId": CART,
    "product_id": LAMP,
    "productId": LAMP,
    "productVariantId": None,
    "sessionId": None,
    "session_id": SESSION,
    "sku": LAMP,
    "status": "ABANDONED",
    "userId": "102",
    "user_id": CUSTOMER,
}
"""Path, query and body parameters that lead somewhere; user 102 has no cart yet."""


@pytest.fixture
async def stocked(shop: Shop, api_ledger: Ledger) -> None:
    """The products of the document's examples, and a cart for everybody."""
    await shop.record(api_ledger, await shop.sell(LAMP))
    await shop.sell("201")
    await shop.sell("123", variants=[("variation_id_1", None), ("variation_id_2", None)])
    await shop.sell("clz1234567890abcdef", variants=[("clz0987654321fedcba", None)])
    owners = [("customer", CUSTOMER), ("session", SESSION), ("device", DEVICE)]
    for number, (kind, owner) in enumerate(owners, 1):
        cart = await shop.add_lines(LineRequest(LAMP, 2), owner=Owner(kind, owner))
        assert cart.id == CART * number


@pytest.fixture
def answered() -> Iterator[set[int]]:
    """The statuses of an operation's answers; some request was granted, and some was not."""
    statuses: set[int] = set()
    yield statuses
    assert statuses & {200, 201, 204}
    assert statuses & {400, 401, 403, 404, 422}


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Keeps its connection, and asks the environment for no proxy."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.mark.slow
@SCHEMA.parametrize()
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_keeps_to_the_document(
    case: schemathesis.Case[Any],
    api_url: str,
    session: requests.Session,
    stocked: None,
    answered: set[int],
) -> None:
    def send(headers: dict[str, str], checks: list[Any]) -> None:
        answer = case.call_and_validate(
            base_url=api_url, session=session, headers=headers, checks=checks
        )
        answered.add(answer.status_code)

    send(SHOPPER, [*CHECKS, *REFUSALS])
    at_home(case)
    for caller in CALLERS:
        send(caller, CHECKS)


def at_home(case: schemathesis.Case[Any]) -> None:
    """Let a request name what there is, where it names something of the kind."""
    # Most of what is made up is another key's request, or has no key's form.
    case.headers.pop("Idempotency-Key", None)
    line = item_id(DEVICES_CART if case.path.startswith("/cart/") else CART, 1)
    known: dict[str, Any] = {**HERE, "item_id": line}
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict):
            part.update({name: known[name] for name in part if name in known})
