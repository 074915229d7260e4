"""`/openapi.json`, and `/docs`: a page to read the contracts and try them with, without a CDN."""

from collections.abc import Sequence
from importlib import util
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from cartsvc import openapi
from cartsvc.contract import Contract


def routes(of: Sequence[Contract]) -> list[Route]:
    """The document, made once, and the page with its files."""
    body = msgspec.json.encode(openapi.document(of))
    static = _swagger_ui()

    async def document(_: Request) -> Response:
        return Response(body, media_type="application/json")

    async def page(_: Request) -> Response:
        return Response(_PAGE, media_type="text/html", headers=_PAGE_HEADERS)

    async def start(_: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=_FILE_HEADERS)

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            raise HTTPException(404)
        return FileResponse(static / name, media_type=_FILES[name], headers=_FILE_HEADERS)

    return [
        Route("/openapi.json", document),
        Route("/docs", page),
        Route("/docs/start.js", start),
        Route("/docs/{name}", file),
    ]


def _swagger_ui() -> Path:
    """The folder of Swagger UI's files. Its package is not imported, which would start Jinja."""
    found = util.find_spec("swagger_ui")
    assert found is not None  # noqa: S101
    assert found.origin is not None  # noqa: S101
    return Path(found.origin).parent / "static"


_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

_FILE_HEADERS = {"cache-control": "public, max-age=86400", "x-content-type-options": "nosniff"}

_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
    ),
    "x-content-type-options": "nosniff",
}

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>cartsvc</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

# Without `validatorUrl`, the page would ask a server elsewhere what it thinks of the document.
_START = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
});
"""
