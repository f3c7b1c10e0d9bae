"""Finds the replicas in a cluster with `kubectl`, and forwards a local port to each of them.

A pod can always be reached from its own node, which is where `kubectl port-forward` enters it. Requests that
the API server passes on (`pods/proxy`) come from elsewhere, and the NetworkPolicies of the product refuse
them.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from yarl import URL

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.replicas.places import Place

SELECTOR: Final = "app.kubernetes.io/name=datastorage"
_CONTAINER_PORT: Final = "metrics"
_FORWARDING: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:([0-9]+) -> ")
_MAX_REASON_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Pace:
    """How long `kubectl` may take, and how often it lists."""

    list_seconds: float = 15.0
    """For one list, with a plugin that gets credentials."""
    forward_seconds: float = 10.0
    """Until a port is forwarded."""
    again_seconds: float = 10.0
    """Between two lists: a rollout replaces a pod in some tens of seconds."""
    stop_seconds: float = 5.0
    """For the end of a `kubectl` that is told to end."""
    most_pods: int = 32
    """Twice the greatest number of shards. Each pod takes one `kubectl`, with some 40 MB."""
    list_bytes: int = 16 * 1024 * 1024
    """A pod takes some 10 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Which pods are the replicas."""

    namespace: str
    selector: str = SELECTOR
    kubeconfig: str | None = None
    context: str | None = None

    @property
    def flags(self) -> Sequence[str]:
        """What `kubectl` needs to know of it, without the selector."""
        found = [f"--namespace={self.namespace}"]
        found += [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig is not None else []
        return [*found, *([f"--context={self.context}"] if self.context is not None else [])]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, as its object says."""

    name: str
    port: int | None
    """Of the metrics; None if no container declares one."""
    trouble: str | None
    """Why it can't be asked."""


class Forward:
    """A `kubectl port-forward` to one pod."""

    def __init__(self, process: Process, url: URL) -> None:
        self.url = url
        self._process = process
        # It writes a line for each connection, and would stop at a full pipe.
        self._reading = [
            asyncio.create_task(_drained(stream)) for stream in (process.stdout, process.stderr) if stream
        ]

    @property
    def is_up(self) -> bool:
        """Whether the process still runs."""
        return self._process.returncode is None

    async def close(self, seconds: float) -> None:
        """End the process, in any case within twice the time."""
        await _ended(self._process, seconds)
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)


class Pods:
    """The pods of an installation. It is a context manager, which ends every `kubectl`."""

    def __init__(self, installation: Installation, pace: Pace = Pace()) -> None:
        self._installation = installation
        self._pace = pace
        self._program = ""
        self._pods: Sequence[Pod] = ()
        self._listed: float | None = None
        self._forwards: dict[str, Forward] = {}

    async def __aenter__(self) -> Self:
        """Look for `kubectl`. Raises ConfigurationError if there is none."""
        program = shutil.which("kubectl")
        if program is None:
            raise ConfigurationError(
                "kubectl is not on PATH, and finds the pods: install it, or forward the ports in another way "
                "and name them with --metrics-url"
            )
        self._program = program
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*map(self.lost, list(self._forwards)))

    async def find(self) -> Sequence[Place]:
        """Return the pods with the local URLs of their metrics.

        Raises ClusterUnavailableError if the first list fails, and ConfigurationError if it is empty.
        """
        await self._list()
        known = {pod.name for pod in self._pods}
        await asyncio.gather(*(self.lost(name) for name in set(self._forwards) - known))
        return await asyncio.gather(*(self._place(pod) for pod in self._pods))

    async def lost(self, name: str) -> None:
        """End the forwarding to a pod. The next look begins another one."""
        forward = self._forwards.pop(name, None)
        if forward is not None:
            await forward.close(self._pace.stop_seconds)

    async def _list(self) -> None:
        if self._listed is not None and time.monotonic() - self._listed < self._pace.again_seconds:
            return
        where = self._installation
        try:
            text = await self._run("get", "pods", f"--selector={where.selector}", "--output=json")
            pods = pods_in(text, self._pace.most_pods)
        except ClusterUnavailableError:
            # In the middle of an incident, the pods that are known may still answer.
            if self._listed is None:
                raise
        else:
            if not pods and self._listed is None:
                raise ConfigurationError(
                    f"no pod in the namespace {where.namespace!r} has the label {where.selector}: name the "
                    "namespace of the installation with -n"
                )
            self._pods = pods
        self._listed = time.monotonic()

    async def _place(self, pod: Pod) -> Place:
        if pod.trouble is not None:
            return Place(pod.name, trouble=pod.trouble)
        forward = self._forwards.get(pod.name)
        if forward is not None and not forward.is_up:
            await self.lost(pod.name)
            forward = None
        if forward is None:
            try:
                forward = await self._forward(pod)
            except ClusterUnavailableError as error:
                return Place(pod.name, trouble=str(error))
            self._forwards[pod.name] = forward
        return Place(pod.name, forward.url)

    async def _forward(self, pod: Pod) -> Forward:
        process = await self._start("port-forward", "--address=127.0.0.1", f"pod/{pod.name}", f":{pod.port}")
        try:
            async with asyncio.timeout(self._pace.forward_seconds):
                port = await _forwarded_port(process)
        except TimeoutError:
            await _ended(process, self._pace.stop_seconds)
            raise ClusterUnavailableError("kubectl port-forward: no answer in time") from None
        except BaseException:
            await _ended(process, self._pace.stop_seconds)
            raise
        return Forward(process, URL.build(scheme="http", host="127.0.0.1", port=port, path="/metrics"))

    async def _run(self, *arguments: str) -> bytes:
        """Return what `kubectl` prints. Raises ClusterUnavailableError."""
        process = await self._start(*arguments)
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._pace.list_seconds):
                printed = await _up_to(self._pace.list_bytes, process.stdout)
                reason = await _reason(process)
                code = await process.wait()
        except TimeoutError:
            raise ClusterUnavailableError(f"kubectl {arguments[0]}: no answer in time") from None
        finally:
            await _ended(process, self._pace.stop_seconds)
        if code:
            raise ClusterUnavailableError(reason)
        return printed

    async def _start(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            self._program, *arguments, *self._installation.flags, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )


def pods_in(text: bytes, most: int) -> Sequence[Pod]:
    """Return the first pods of a list, by name. Raises ClusterUnavailableError if it is none."""
    try:
        items = json.loads(text)["items"]
        pods = [_pod(item) for item in items]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ClusterUnavailableError("kubectl get pods: the answer is no list of pods") from None
    return sorted(pods, key=lambda pod: pod.name)[:most]


def _pod(item: Mapping[str, Any]) -> Pod:
    status = item.get("status", {})
    ports = [
        port["containerPort"]
        for container in item["spec"]["containers"]
        for port in container.get("ports", [])
        if port.get("name") == _CONTAINER_PORT
    ]
    phase = status.get("phase", "Unknown")
    trouble = None if phase == "Running" else f"the pod is {phase}"
    if trouble is None and not ports:
        trouble = f"no container has a port named {_CONTAINER_PORT}"
    waiting = [
        reason
        for state in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
        if (reason := state.get("state", {}).get("waiting", {}).get("reason"))
    ]
    if waiting:
        trouble = f"the pod is {phase}: {waiting[0]}"
    return Pod(str(item["metadata"]["name"]), int(ports[0]) if ports else None, trouble)


async def _forwarded_port(process: Process) -> int:
    """Return the local port, once it is there. Raises ClusterUnavailableError if the process ends."""
    assert process.stdout is not None
    line = await process.stdout.readline()
    found = _FORWARDING.match(line)
    if found is None:
        raise ClusterUnavailableError(await _reason(process))
    return int(found[1])


async def _reason(process: Process) -> str:
    """Return the last line of what went wrong, when the process ends."""
    assert process.stderr is not None
    lines = (await _up_to(1024 * 1024, process.stderr)).decode("utf-8", "replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"kubectl: {last.removeprefix('error: ')[:_MAX_REASON_CHARACTERS]}"


async def _up_to(most: int, stream: asyncio.StreamReader) -> bytes:
    found = bytearray()
    while chunk := await stream.read(64 * 1024):
        found += chunk
        if len(found) > most:
            raise ClusterUnavailableError(f"kubectl prints more than {most:,} bytes")
    return bytes(found)


async def _drained(stream: asyncio.StreamReader) -> None:
    while await stream.read(64 * 1024):
        pass


async def _ended(process: Process, seconds: float) -> None:
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            # The process's own methods would take the exit code of one that has just ended from asyncio.
            os.kill(process.pid, number)
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
                return
        except TimeoutError:
            continue
