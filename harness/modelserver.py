"""The sentence model behind an OpenAI-compatible POST /v1/embeddings: a real service for the provider to ask.

In tests and benchmarks: ``async with EmbeddingsServer(key=...) as server: server.url``. For people:
``.venv/bin/python -m harness.modelserver --port 8090``, its key in EMBEDDINGS_SERVER_KEY.
Requests and errors look as OpenAI documents them in its API reference (Embeddings; Error codes).
"""

import argparse
import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from aiohttp import web

from harness import minilm
from harness.embeddings import embeddings_answer

MAX_INPUTS: Final = 2048  # texts in one request, OpenAI's own limit
MAX_BODY_BYTES: Final = 64 * 2**20  # more than MAX_INPUTS texts of 16 KiB, the longest that a record has

_KEY_VARIABLE: Final = "EMBEDDINGS_SERVER_KEY"
_FORMATS: Final = ("float", "base64")


class ApiError(Exception):
    """An error answer in OpenAI's form."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def response(self) -> web.Response:
        error = {
            "message": str(self),
            "type": "invalid_request_error" if self.status < 500 else "server_error",
            "param": self.param,
            "code": self.code,
        }
        return web.json_response({"error": error}, status=self.status)


@dataclass(frozen=True)
class EmbeddingsRequest:
    """A valid request for vectors."""

    texts: list[str]
    dimensions: int
    encoding_format: str

    @classmethod
    def parse(cls, body: Any, model: str) -> Self:
        """Return the request in a JSON body. Raises ApiError if it is not valid."""
        if not isinstance(body, dict):
            raise ApiError(400, "The body must be a JSON object.")
        _check_model(body.get("model"), model)
        encoding_format = body.get("encoding_format", "float")
        if encoding_format not in _FORMATS:
            raise ApiError(400, "encoding_format must be 'float' or 'base64'.", param="encoding_format")
        return cls(_texts(body.get("input")), _dimensions(body.get("dimensions")), encoding_format)


class EmbeddingsServer:
    """Serves on 127.0.0.1, or another host, while it is entered. Port 0 takes a free one."""

    def __init__(
        self, *, key: str | None = None, model: str = minilm.NAME, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._key = key
        self._model = model
        self._host = host
        self._port = port
        # numpy already uses every core: two texts at a time would only wait for each other.
        self._one_at_a_time = asyncio.Lock()
        self.requests = 0
        """Requests for vectors that were answered with 200."""
        self.texts = 0
        """The texts in these requests."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.router.add_post("/v1/embeddings", self._answer)
        self._runner = web.AppRunner(app, access_log=None)

    @property
    def url(self) -> str:
        """The base URL as OpenAI's clients take it, with the version."""
        return f"http://{self._host}:{self._port}/v1"

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(minilm.shared)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self._check_key(request)
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:
            raise ApiError(400, "We could not parse the JSON body of your request.") from error
        wanted = EmbeddingsRequest.parse(body, self._model)
        async with self._one_at_a_time:
            tokens, vectors = await asyncio.to_thread(_embed, wanted)
        answer = embeddings_answer(
            vectors, model=self._model, in_base64=wanted.encoding_format == "base64", tokens=tokens
        )
        self.requests += 1
        self.texts += len(wanted.texts)
        return web.json_response(answer)

    def _check_key(self, request: web.Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given:
            raise ApiError(401, "You didn't provide an API key.")
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._key.encode()):
            raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")


def _check_model(given: Any, served: str) -> None:
    if not isinstance(given, str) or not given:
        raise ApiError(400, "you must provide a model parameter")
    if given != served:
        raise ApiError(
            404, "The model does not exist or you do not have access to it.", code="model_not_found"
        )


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "input must be a string or a list of strings, not empty.", param="input")
    if len(texts) > MAX_INPUTS:
        raise ApiError(400, f"input may have {MAX_INPUTS} texts at most.", param="input")
    if not all(texts):
        raise ApiError(400, "input cannot be an empty string.", param="input")
    if not all(_is_unicode(text) for text in texts):
        raise ApiError(400, "input must be valid Unicode, without single surrogates.", param="input")
    return texts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _dimensions(given: Any) -> int:
    if given is None:
        return minilm.DIMENSION
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= minilm.DIMENSION:
        raise ApiError(400, f"dimensions must be from 1 to {minilm.DIMENSION}.", param="dimensions")
    return given


def _embed(wanted: EmbeddingsRequest) -> tuple[int, minilm.Array]:
    """Return how many tokens the texts had, and their vectors.

    Fewer dimensions are the first ones, scaled to length one again. That is what OpenAI does; this model was
    not trained for it, so its short vectors are poorer.
    """
    model = minilm.shared()
    tokens = model.tokenize(wanted.texts)
    vectors = model.embed_tokens(tokens)[:, : wanted.dimensions]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return sum(map(len, tokens)), vectors


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        return ApiError(error.status, error.reason).response()


async def _serve(host: str, port: int) -> None:
    key = os.environ.get(_KEY_VARIABLE) or None
    async with EmbeddingsServer(key=key, host=host, port=port) as server:
        example = json.dumps({"model": minilm.NAME, "input": "the pod was killed for its memory"})
        print(f"{minilm.NAME}, {minilm.DIMENSION} dimensions, key {'needed' if key else 'not needed'}. Try:")
        header = f' -H "Authorization: Bearer ${_KEY_VARIABLE}"' if key else ""
        print(f"  curl{header} -H 'Content-Type: application/json' {server.url}/embeddings -d '{example}'")
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a small sentence model as OpenAI serves its own.")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(arguments.host, arguments.port))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        raise SystemExit(f"cannot listen on {arguments.host}:{arguments.port}: {error.strerror}") from error


if __name__ == "__main__":
    main()
