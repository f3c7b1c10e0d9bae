"""An embedding service that costs next to nothing and can be taken away: what is measured is the operator."""

import asyncio
import base64
import hashlib
from typing import Any, Final, Self

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer

_DIMENSIONS: Final = 256


class Embedder:
    """An OpenAI-compatible service in this process; a context manager."""

    def __init__(self) -> None:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/embeddings", self._answer)
        self._server = TestServer(app)
        self.away = False
        """Answer as a proxy does whose service is gone."""

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def settings(self) -> dict[str, Any]:
        """Return the operator's settings for this service."""
        return {
            "EMBEDDING_PROVIDER": "openai", "EMBEDDING_URL": str(self._server.make_url("/v1")),
            "EMBEDDING_MODEL": "hash", "EMBEDDING_DIMENSIONS": _DIMENSIONS,
        }  # fmt: skip

    async def _answer(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=503, text="no healthy upstream")
        texts = (await request.json())["input"]
        await asyncio.sleep(0)
        data = [{"index": index, "embedding": _base64(text)} for index, text in enumerate(texts)]
        return web.json_response({"object": "list", "data": data, "model": "hash"})


def _base64(text: str) -> str:
    """Return a vector as the operator asks for it."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).standard_normal(_DIMENSIONS, dtype=np.float32)
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
