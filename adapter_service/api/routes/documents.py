"""The OpenAPI document and its two pages; FastAPI's own would ask nobody for a key."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse

router = APIRouter(include_in_schema=False)

_DOCUMENT = "/openapi.json"
_METHODS = ["GET", "HEAD"]


@router.api_route(_DOCUMENT, methods=_METHODS)
async def document(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


@router.api_route("/docs", methods=_METHODS)
async def swagger(request: Request) -> HTMLResponse:
    return get_swagger_ui_html(openapi_url=_DOCUMENT, title=request.app.title)


@router.api_route("/redoc", methods=_METHODS)
async def redoc(request: Request) -> HTMLResponse:
    return get_redoc_html(openapi_url=_DOCUMENT, title=request.app.title)
