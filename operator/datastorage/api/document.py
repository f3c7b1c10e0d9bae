"""The OpenAPI document without a running server, for the command line and the documentation."""

import json
from typing import Any

from fastapi import FastAPI

from datastorage.api.app import api_app
from datastorage.api.export import ExportDesk, export_router
from datastorage.api.overviews import overview_router
from datastorage.api.query import Desk, query_router
from datastorage.api.store import Entrance, store_router


def described_app() -> FastAPI:
    """Return the application for its own description: its routes can't be called."""
    unused: Any = None
    entrance = Entrance(guard=unused, submissions=unused, archive=unused, with_texts=True)
    desk = Desk(unused, unused)
    routers = [
        store_router(entrance),
        query_router(desk),
        overview_router(desk),
        export_router(ExportDesk(unused, unused)),
    ]
    return api_app(routers, [])


def document() -> dict[str, Any]:
    """Return the document that a running operator serves at /openapi.json."""
    return described_app().openapi()


def document_text() -> str:
    """Return the document as JSON for people."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"
