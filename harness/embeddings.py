"""An OpenAI-compatible embedding service on a port of this machine that can be made to misbehave."""

import asyncio
import base64
import hashlib
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer

Behaviour = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def counted_vector(text: str, dimensions: int) -> list[float]:
    """Return a vector: the number of characters in the text, then ones."""
    return [float(len(text)), *[1.0] * (dimensions - 1)]


def hashed_vector(text: str, dimensions: int) -> list[float]:
    """Return a vector that looks random: the vectors of different texts are far from each other."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    vector: list[float] = np.random.default_rng(seed).standard_normal(dimensions, np.float32).tolist()
    return vector


class OpenAIService:
    """Answers each request with the next of ``behaviours``, and correctly when none is left."""

    def __init__(
        self,
        dimensions: int,
        *,
        host: str = "127.0.0.1",
        vector: Callable[[str, int], list[float]] = counted_vector,
    ) -> None:
        """``dimensions`` is the length of a vector, ``vector`` makes one. Nothing runs before ``start``."""
        self.dimensions = dimensions
        self.only_lists = False
        """Whether it ignores requests for base64."""
        self.is_away = False
        """Whether it answers like a proxy whose service is gone."""
        self.poison = ""
        """It refuses every text that contains this word."""
        self.delay_seconds = 0.0
        """How long it takes to answer correctly."""
        self.behaviours: list[Behaviour] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._vector = vector
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, host=host)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen."""
        await self._server.start_server(ssl=tls)

    async def stop(self) -> None:
        """Stop listening, and cut open connections."""
        await self._server.close()

    @property
    def url(self) -> str:
        """The base URL to configure."""
        return str(self._server.make_url("/v1"))

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the operator's settings for this service, by name without the prefix."""
        return {
            "EMBEDDING_PROVIDER": "openai", "EMBEDDING_URL": self.url, "EMBEDDING_MODEL": "tiny",
            "EMBEDDING_DIMENSIONS": self.dimensions, **more,
        }  # fmt: skip

    def vector(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self._vector(text, self.dimensions)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer of a working service."""
        return embeddings_answer(
            [self.vector(text) for text in request["input"]],
            model=request["model"],
            in_base64=request.get("encoding_format") == "base64" and not self.only_lists,
            tokens=1,
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"{}")
        self.requests.append(body)
        self.headers.append(request.headers)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if request.path != "/v1/embeddings" or request.method != "POST":
                return web.Response(status=404, text="not found")
            if self.is_away:
                return web.Response(status=503, text="no healthy upstream")
            if self.poison and any(self.poison in text for text in body["input"]):
                return web.Response(status=400, text="the input contains something")
            if self.behaviours:
                return await self.behaviours.pop(0)(request, body)
            await asyncio.sleep(self.delay_seconds)
            return web.json_response(self.answer(body))
        finally:
            self.at_once -= 1


def embeddings_answer(
    vectors: Iterable[Sequence[float]], *, model: str, in_base64: bool, tokens: int
) -> dict[str, Any]:
    """Return the body of an answer in OpenAI's documented form (API reference, Embeddings)."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, in_base64=in_base64)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _encoded(vector: Sequence[float], *, in_base64: bool) -> str | list[float]:
    numbers = np.asarray(vector, "<f4")
    if in_base64:
        return base64.b64encode(numbers.tobytes()).decode()
    return [float(number) for number in vector]


def status(code: int, text: str = "", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Return a behaviour: answer with this status."""

    async def behave(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=code, text=text, headers=headers)

    return behave


def held(go_on: asyncio.Event, service: OpenAIService) -> Behaviour:
    """Return a behaviour: answer correctly once the event is set."""

    async def behave(_: web.Request, request: dict[str, Any]) -> web.StreamResponse:
        await go_on.wait()
        return web.json_response(service.answer(request))

    return behave


def body(content: str | bytes, content_type: str = "application/json") -> Behaviour:
    """Return a behaviour: answer with exactly this body."""

    async def behave(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        raw = content.encode() if isinstance(content, str) else content
        return web.Response(body=raw, content_type=content_type)

    return behave


def changed(change: Callable[[dict[str, Any]], Any], service: OpenAIService) -> Behaviour:
    """Return a behaviour: answer correctly except for one change."""

    async def behave(_: web.Request, request: dict[str, Any]) -> web.StreamResponse:
        answer = service.answer(request)
        return web.Response(body=json.dumps(change(answer) or answer), content_type="application/json")

    return behave


async def silence(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def cut(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """Close the connection instead of answering."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def cut_short(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """Announce more than is sent, then close the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"data": [')
    assert request.transport is not None
    request.transport.close()
    return response


class Endless:
    """Answers with JSON that does not end. ``sent`` counts its bytes."""

    def __init__(self) -> None:
        self.sent = 0
        self.ended = asyncio.Event()

    async def __call__(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        chunk = b" " * 65_536
        try:
            while True:
                await response.write(chunk)
                self.sent += len(chunk)
        finally:
            self.ended.set()
