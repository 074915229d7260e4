"""The contracts told to machines: the document is valid, whole and true, and the page shows it."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.applications import Starlette
from starlette.routing import Route

import cartsvc
from cartsvc import contracts, docs, errors
from cartsvc import http as http_module
from cartsvc.app import create_app
from cartsvc.contract import Contract, Operation
from cartsvc.contracts import customer, records
from cartsvc.core import Core
from cartsvc.errors import CartError
from cartsvc.model import Shortage
from cartsvc.settings import Settings
from tests import examples
from tests.shop import LAMP, SECRET

CONTRACTS = {one.name: one for one in contracts.all_of(Mock(spec=Core))}
OPERATIONS = [
    pytest.param(contract, operation, id=f"{contract.name} {operation.method} {operation.path}")
    for contract in CONTRACTS.values()
    for operation in contract.operations
]

OWN = {
    ("session", "POST /api/cart"): {200: 1},
    ("tenant", "POST /cart/items"): {201: 1},
    ("customer", "POST /api/customer/cart"): {201: 1, 400: 3, 401: 3, 422: 2, 500: 1},
    ("records", "GET /api/carts"): {200: 1, 401: 1},
    ("records", "POST /api/carts"): {201: 1},
    ("records", "GET /api/carts/{cart_id}"): {200: 1, 404: 1},
    ("records", "PUT /api/carts/{cart_id}"): {200: 1},
    ("records", "PATCH /api/carts/{cart_id}/status/{status}"): {200: 1},
    ("records", "GET /api/carts/user/{user_id}/active"): {200: 1},
    ("records", "GET /api/carts/session/{session_id}/active"): {200: 1},
    ("records", "GET /api/cart-items"): {200: 1},
    ("records", "GET /api/cart-items/{item_id}"): {200: 1},
    ("records", "GET /api/cart-items/cart/{cart_id}"): {200: 1},
    ("records", "POST /api/cart-items"): {201: 1, 400: 1},
    ("records", "PUT /api/cart-items/{item_id}"): {200: 1},
    ("records", "GET /api/price-history/cart-item/{item_id}"): {200: 1},
}
"""The bodies that the contracts' documents show: how many at least, by status."""

ERRORS: list[Exception] = [
    errors.Refused(),
    errors.UnknownProduct(LAMP),
    errors.UnknownVariant(LAMP, "xl"),
    errors.InactiveProduct(LAMP),
    errors.OutOfStock(LAMP, 3, 0),
    errors.OutOfStock(LAMP, 3, 2),
    errors.SoldOut(LAMP, 1_763_640_000_000),
    errors.SaleNotStarted(LAMP, 1_763_640_000_000, 1_000),
    errors.SaleEnded(LAMP, 1_763_640_000_000),
    errors.OrderLimit(LAMP, 2, 1),
    errors.BuyerLimit(LAMP, 2, 1),
    errors.BelowMinimum(LAMP, 2),
    errors.CartFull(50),
    errors.CartSpent(4_095),
    errors.NoCart(),
    errors.NoLine(LAMP),
    errors.NotWarm(),
    errors.NoCounter(LAMP),
    errors.HoldsDue("cart", "counter"),
    errors.Cold("cart", 256),
    errors.Rebuilt(),
    errors.RowsRefused("NotNullViolationError"),
    errors.OutcomeUnknown("timeout"),
    errors.Busy(4_096),
    errors.Overloaded("memory"),
    errors.SalePaused("stocktaking"),
    errors.KeyReused(),
    errors.KeysSpent(1_000, 60_000),
    errors.TooManyGuests(5),
    errors.Invalid("", "is not valid JSON"),
    errors.Invalid("quantity", "is missing or has the wrong type"),
    http_module.BodyTooLarge(65_536),
    ValueError("nobody meant to raise it"),
]
"""What an operation of any contract may raise."""

TOKEN_ERRORS = [errors.NoToken(), errors.BadToken("expired"), errors.WrongType("user")]

ERRORS_OF: dict[str, list[Exception]] = {
    "session": ERRORS,
    "tenant": [*ERRORS, *TOKEN_ERRORS, errors.UnknownTenant("acme")],
    "device": ERRORS,
    "customer": [*ERRORS, *TOKEN_ERRORS, customer.Unprocessable("No", {"product": ["No."]})],
    "records": [
        *ERRORS,
        *TOKEN_ERRORS,
        errors.CartClosed(1, "CONVERTED"),
        errors.CartExists(1),
        errors.CartChanged(),
        errors.CartShort([Shortage(LAMP, 3, 2)]),
        errors.PriceDiffers(LAMP, 2_999),
        errors.LedgerAway("timeout"),
        records.BadFields({"quantity": "No"}),
        records.NotFound("Cart with ID 1"),
    ],
    "admin": [
        *ERRORS,
        *TOKEN_ERRORS,
        errors.UnknownTenant("acme"),
        errors.UnknownSku(LAMP),
        errors.StockHeld(LAMP, 3),
        errors.TooManyWatched(50),
        errors.CartClosed(1, "CONVERTED"),
        errors.VerifyRunning(),
        errors.VerifyTooLong(50.0),
        errors.NotRecorded("ConnectionRefusedError"),
        errors.NoRight("permission denied"),
        errors.LedgerAway("timeout"),
    ],
}


@pytest.fixture(scope="module")
def app() -> Starlette:
    """The service, which connects to nothing for its document."""
    return create_app(Settings(jwt_secret=SECRET))


@pytest.fixture
async def client(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def told(document: dict[str, Any], operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = document["paths"][operation.path][operation.method.lower()]
    return found


def statuses(operation: dict[str, Any]) -> set[int]:
    return {int(status) for status in operation["responses"]}


def body_of(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer["content"]["application/json"]
    return found


def closed(schema: Any) -> Any:
    """The schema for bodies with no field but those that it names."""
    if isinstance(schema, dict):
        found = {name: closed(value) for name, value in schema.items()}
        return {**found, "additionalProperties": False} if "properties" in found else found
    return [closed(value) for value in schema] if isinstance(schema, list) else schema


def check(document: dict[str, Any], schema: dict[str, Any], body: Any) -> None:
    whole = {**schema, "components": {"schemas": closed(document["components"]["schemas"])}}
    Draft202012Validator(whole).validate(body)


async def test_is_valid_openapi(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    assert document["openapi"] == "3.1.0"
    assert document["info"]["version"] == cartsvc.__version__
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_has_the_methods_of_every_path_and_no_other(
    app: Starlette, client: httpx.AsyncClient, document: dict[str, Any]
) -> None:
    own = {"/openapi.json", "/docs", "/docs/start.js", "/docs/{name}"}
    own |= {"/healthz", "/readyz", "/metrics"}
    served = {route.path for route in app.routes if isinstance(route, Route)}
    assert served - own == set(document["paths"])
    headers = {header: "here" for one in CONTRACTS.values() if (header := one.header)}
    for path, methods in document["paths"].items():
        for name, value in headers.items():
            answer = await client.request("TRACE", path, headers={name: value})
            assert answer.status_code == 405
            allowed = {method.lower() for method in answer.headers["allow"].split(", ")}
            assert allowed == set(methods), path


async def test_tags_are_the_contracts(document: dict[str, Any]) -> None:
    tags = {tag["name"]: tag["description"] for tag in document["tags"]}
    assert list(tags) == [
        "000 session",
        "001 tenant",
        "002 device",
        "003 customer",
        "004 records",
        "admin",
    ]
    for name, about in tags.items():
        assert about.startswith(f"Contract {name.replace(' ', ', ')}: `/")
    for _, path, operation in operations(document):
        named = [one.title for one in CONTRACTS.values() if tells(one, path)]
        assert operation["tags"] == named


def tells(contract: Contract, path: str) -> bool:
    return any(operation.path == path for operation in contract.operations)


async def test_names_of_schemas_say_whose_they_are(document: dict[str, Any]) -> None:
    names = set(document["components"]["schemas"])
    assert {"SessionFailure", "TenantFailure", "DeviceItem", "RecordsCartView"} <= names
    begin = tuple(name.capitalize() for name in CONTRACTS)
    assert all(re.fullmatch(r"\w+", name) and name.startswith(begin) for name in names)


def test_the_errors_are_all_that_there_are() -> None:
    """What is not among them is a name for others, or for an operator at a terminal."""
    there = {error for error in every(CartError) if error.__module__ == errors.__name__}
    known = {type(error) for found in ERRORS_OF.values() for error in found}
    names = {CartError, errors.Unauthorized, errors.Unavailable, errors.Again}
    assert there - known == names | {
        errors.UnknownLetter,
        errors.NotEmpty,
    }


def every(error: type[CartError]) -> set[type[CartError]]:
    return {error}.union(*(every(kind) for kind in error.__subclasses__()))


@pytest.mark.parametrize("name", CONTRACTS)
async def test_every_error_has_a_status_and_a_shape_that_the_document_tells(
    document: dict[str, Any], name: str
) -> None:
    contract = CONTRACTS[name]
    scope = {"method": "POST", "path": "/"}
    schema = {"$ref": f"#/components/schemas/{name.capitalize()}Failure"}
    found = {one: told(document, one) for one in contract.operations if one.body is not None}
    known = set().union(*(statuses(operation) for operation in found.values()))
    for error in ERRORS_OF[name]:
        answer = contract.refuse(error, scope)
        assert answer.status in known, error
        check(document, schema, httpx.Response(answer.status, content=answer.body).json())


@pytest.mark.parametrize(("contract", "operation"), OPERATIONS)
async def test_any_operation_may_fail(
    document: dict[str, Any], contract: Contract, operation: Operation
) -> None:
    found = told(document, operation)
    for error in (errors.OutcomeUnknown("timeout"), ValueError("nobody meant to raise it")):
        answer = contract.refuse(error, {"method": operation.method, "path": operation.path})
        assert answer.status in statuses(found)
    assert (413 in statuses(found)) == (operation.body is not None)
    away = found["responses"]["503"]
    assert away["headers"] == {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}


async def test_every_example_is_what_its_schema_says(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        bodies = [body_of(one) for one in operation["responses"].values() if "content" in one]
        if "requestBody" in operation:
            bodies.append(body_of(operation["requestBody"]))
            assert bodies[-1]["examples"], (method, path)
        for body in bodies:
            for example in body.get("examples", {}).values():
                check(document, body["schema"], example["value"])


@pytest.mark.parametrize(("contract", "operation"), OPERATIONS)
async def test_shows_the_examples_of_the_contracts_file(
    document: dict[str, Any], contract: Contract, operation: Operation
) -> None:
    found, name = told(document, operation), f"{operation.method} {operation.path}"
    file = examples.of(contract.name)[name]
    shared = len(found["tags"]) > 1
    if operation.body is not None:
        request = body_of(found["requestBody"])["examples"][contract.title]["value"]
        assert request == examples.request(contract.name, name)
    wanted = {operation.status, *operation.refusals} - {204}
    assert wanted <= {int(status) for status in file["answers"]}
    for status, named in file["answers"].items():
        shown = body_of(found["responses"][status])["examples"]
        for title, body in named.items():
            assert shown[f"{contract.title}: {title}" if shared else title]["value"] == body


@pytest.mark.parametrize("name", CONTRACTS)
def test_the_file_has_no_example_of_anything_else(name: str) -> None:
    known = {f"{one.method} {one.path}" for one in CONTRACTS[name].operations}
    assert set(examples.of(name)) == known


def test_the_documents_own_examples_are_there() -> None:
    assert set(CONTRACTS) == set(examples.NAMES)
    for (contract, operation), wanted in OWN.items():
        for status, least in wanted.items():
            named = examples.of(contract)[operation]["answers"][str(status)]
            assert len(named) >= least, (operation, status)


async def test_contracts_that_share_a_path_are_one_operation(document: dict[str, Any]) -> None:
    found = document["paths"]["/cart/items"]["post"]
    assert found["tags"] == ["001 tenant", "002 device"]
    assert found["description"] == (
        "Answered by 001 tenant with `x-tenant-id`, else 002 device with `DeviceID`; "
        "400 with neither."
    )
    asked = {parameter["name"]: parameter["required"] for parameter in found["parameters"]}
    names = ("x-tenant-id", "x-session-id", "Idempotency-Key", "DeviceID")
    assert asked == dict.fromkeys(names, False)
    assert found["security"] == [{}, {"bearer": []}]
    views = [{"$ref": f"#/components/schemas/{name}CartView"} for name in ("Tenant", "Device")]
    assert body_of(found["responses"]["201"])["schema"] == {"anyOf": views}
    bodies = [{"$ref": f"#/components/schemas/{name}AddItem"} for name in ("Tenant", "Device")]
    assert body_of(found["requestBody"])["schema"] == {"anyOf": bodies}
    conflict = body_of(found["responses"]["409"])["schema"]
    assert conflict == {"$ref": "#/components/schemas/DeviceFailure"}
    sent = ["Idempotent-Replay", "X-Session-ID", "X-Cart-Notice"]
    assert list(found["responses"]["201"]["headers"]) == sent


async def test_parameters(document: dict[str, Any]) -> None:
    [session] = document["paths"]["/api/cart"]["get"]["parameters"]
    assert (session["name"], session["in"], session["required"]) == ("session_id", "query", True)
    carts = document["paths"]["/api/carts"]["get"]
    asked = {one["name"]: (one["required"], one["schema"]) for one in carts["parameters"]}
    page = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
    size = {"type": "integer", "minimum": 1, "maximum": 200}
    assert asked == {"page": (False, page), "size": (False, size)}
    assert list(carts["responses"]["200"]["headers"]) == ["X-Total-Count", "X-Total-Pages"]
    for _, path, operation in operations(document):
        in_path = [one for one in operation["parameters"] if one["in"] == "path"]
        assert [one["name"] for one in in_path] == re.findall(r"{(\w+)}", path)
        assert all(one["required"] for one in in_path)
        assert all(one["description"] for one in operation["parameters"])


async def test_tokens(document: dict[str, Any]) -> None:
    wanted: dict[str, Any] = {
        "000 session": None,
        "001 tenant": [{}, {"bearer": []}],
        "003 customer": [{"bearer": []}],
        "004 records": [{"bearer": []}],
        "admin": [{"bearer": []}],
    }
    for _, _, operation in operations(document):
        assert operation.get("security") == wanted[operation["tags"][0]]


@pytest.mark.parametrize(("name", "most"), [("Session", 100), ("Tenant", 999_999_999)])
async def test_quantities_have_the_contracts_range(
    document: dict[str, Any], name: str, most: int
) -> None:
    for body in ("AddItem", "SetItem"):
        fields = document["components"]["schemas"][name + body]["properties"]
        assert fields["quantity"] == {"type": "integer", "minimum": 1, "maximum": most}


async def test_amounts_are_numbers(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert schemas["RecordsItemBody"]["properties"]["priceAtAddition"] == {
        "anyOf": [{"type": "number"}, {"type": "null"}],
        "default": None,
    }
    assert schemas["DeviceItem"]["properties"]["PriceAtAddition"] == {"type": "number"}


async def test_the_page_loads_only_from_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'self';")
    assert "<script>" not in page.text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 4
    for url in loaded:
        assert re.fullmatch(r"docs/[\w.-]+", url)
        asset = await client.get(page.url.join(url))
        assert asset.status_code == 200
        assert asset.content
        assert asset.headers["cache-control"] == "public, max-age=86400"
    start = (await client.get("/docs/start.js")).text
    assert (await client.get(page.url.join(re.findall(r'url: "([^"]+)"', start)[0]))).json()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
        ("start.js", "text/javascript; charset=utf-8"),
        ("swagger-ui.css", "text/css; charset=utf-8"),
        ("favicon-32x32.png", "image/png"),
    ],
)
async def test_assets_have_their_type(client: httpx.AsyncClient, name: str, kind: str) -> None:
    assert (await client.get(f"/docs/{name}")).headers["content-type"] == kind


@pytest.mark.parametrize("name", ["nothing.js", "swagger-editor.js", "..%2F__init__.py", "LICENSE"])
async def test_other_files_are_not_served(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(f"/docs/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"] == {"code": "not_found"}


def test_the_page_needs_no_package_but_its_files() -> None:
    assert set(docs._FILES) <= {file.name for file in docs._swagger_ui().iterdir()}
