"""A fake API server for tests that choose its answers, and see what the client and Kopf's watches do then.

Tests that depend on the behaviour of the real server run on a real control plane.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from datastorage.kube.endpoint import Endpoint
from datastorage.kube.transport import Transport
from datastorage.resources.kinds import API_VERSION, GROUP, KINDS, VERSION
from harness.objects import kind_of

Answer = Callable[[web.Request], web.Response]


@dataclass
class SeenRequest:
    """A request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeApiServer:
    """Answers single requests with ``answers``, in order, and watches with the ``watch_answers`` of their
    kind.

    ``unserved`` holds the plurals whose definition is missing. While ``silent`` is set, watches are accepted
    and get no answer.
    """

    answers: list[web.Response | Answer] = field(default_factory=list)
    watch_answers: dict[str, list[int]] = field(default_factory=dict)
    unserved: set[str] = field(default_factory=set)
    silent: bool = False
    requests: list[SeenRequest] = field(default_factory=list)
    watches: list[str] = field(default_factory=list)
    watch_queries: list[dict[str, str]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    _closing: asyncio.Event = field(default_factory=asyncio.Event)
    _ends: dict[str, asyncio.Event] = field(default_factory=dict)

    def answer(self, status: int, body: Any) -> None:
        """Add an answer with a JSON body."""
        self.answers.append(web.json_response(body, status=status))

    def refuse(self, status: int, message: str) -> None:
        """Add an error answer in the API server's form."""
        body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
        self.answer(status, body | {"details": {"name": "the-object"}})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if request.query.get("watch") == "true":
            return await self._watch(request)
        if path in _DISCOVERY:
            return self._discovered(path)
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.requests.append(
            SeenRequest(request.method, path, dict(request.query), dict(request.headers), body)
        )
        if self.answers:
            answer = self.answers.pop(0)
            return answer(request) if callable(answer) else answer
        return web.json_response({"items": [], "metadata": {"resourceVersion": "1"}})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(request.path)
        self.watch_queries.append(dict(request.query))
        plural = request.path.rpartition("/")[2]
        if plural in self.unserved:
            return web.Response(status=404, text="404 page not found")
        if self.silent:
            await self._closing.wait()
        if self.watch_answers.get(plural):
            status = self.watch_answers[plural].pop(0)
            return web.json_response({"kind": "Status", "code": status, "message": "no"}, status=status)
        stream = web.StreamResponse()
        await stream.prepare(request)
        for event in self.events:
            if kind_of(event["object"]).plural == plural:
                await stream.write(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        end = self._ends.setdefault(plural, asyncio.Event())
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._closing, end)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for waiter in waiting:
            waiter.cancel()
        return stream

    def undefine(self, plural: str) -> None:
        """Remove a definition, as its deletion does: its watches end, and it is no longer served."""
        self.unserved.add(plural)
        self._ends.pop(plural, asyncio.Event()).set()

    def _discovered(self, path: str) -> web.Response:
        served = [kind.plural for kind in KINDS if kind.plural not in self.unserved]
        body: Any = _DISCOVERY[path]
        if path == "/apis" and not served:
            return web.json_response({"groups": []})
        if path == f"/apis/{API_VERSION}":
            if not served:
                return web.Response(status=404, text="404 page not found")
            body = {"resources": [one for one in body["resources"] if one["name"] in served]}
        return web.json_response(body)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeApiServer"]:
        """Run on a free port."""
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self._handle)
        server = TestServer(application)
        await server.start_server(shutdown_timeout=0.1)
        self.url = str(server.make_url("")).rstrip("/")
        try:
            yield self
        finally:
            self._closing.set()
            await server.close()

    def transport(self) -> Transport:
        """Return a transport to this server, with a token."""
        endpoint = Endpoint(source="a test", server=self.url, authorization="Bearer the-token")
        return Transport(lambda: endpoint)


_VERBS = ["get", "list", "watch", "patch", "delete"]
_DISCOVERY: dict[str, Any] = {
    "/api": {"versions": ["v1"]},
    # Kopf begins only when it has found these resources, whether or not it uses them.
    "/api/v1": {
        "resources": [
            {
                "name": "namespaces", "singularName": "namespace", "kind": "Namespace", "namespaced": False,
                "verbs": ["list", "watch"],
            },
            {
                "name": "events", "singularName": "event", "kind": "Event", "namespaced": True,
                "verbs": ["create"],
            },
        ]
    },
    "/apis": {
        "groups": [
            {
                "name": GROUP,
                "versions": [{"groupVersion": API_VERSION, "version": VERSION}],
                "preferredVersion": {"groupVersion": API_VERSION, "version": VERSION},
            }
        ]
    },
    f"/apis/{GROUP}/{VERSION}": {
        "resources": [
            {
                "name": kind.plural, "singularName": kind.singular, "kind": kind.kind, "namespaced": True,
                "verbs": _VERBS, "shortNames": list(kind.short_names),
            }
            for kind in KINDS
        ]
    },
}  # fmt: skip
