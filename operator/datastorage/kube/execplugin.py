"""Runs a credential plugin of a kubeconfig, and reads what it prints."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from datastorage.errors import ClusterUnavailableError, ConfigurationError
from datastorage.kube.endpoint import ClientCertificate, ExecPlugin, checked_header

_MAX_REASON_CHARACTERS: Final = 200
# A word of this length in a plugin's error output may be a secret.
_LONG_WORD: Final = re.compile(r"\S{40,}")
_STDOUT: Final = 1
_STDERR: Final = 2


@dataclass(frozen=True, slots=True)
class PluginLimits:
    """Limits on a run of a plugin."""

    run_seconds: float = 20.0
    """A plugin that calls a cloud's API takes a second or two. The plugin and the request together must take
    less than the 30 s that a watch waits: a run that the watch cancels yields neither credentials nor a
    reason."""
    output_bytes: int = 1024 * 1024
    """The limit on each of the plugin's two outputs. Credentials take some KiB."""


@dataclass(frozen=True)
class PluginCredential:
    """The credentials that a plugin has printed."""

    authorization: str | None = field(repr=False)
    certificate: ClientCertificate | None
    expires: float | None
    """Seconds since the epoch."""


async def run_plugin(plugin: ExecPlugin, limits: PluginLimits) -> PluginCredential:
    """Run the plugin and return its credentials.

    Raises ClusterUnavailableError when the plugin fails, hangs or prints something else. The error never
    shows the plugin's standard output.
    """
    name = f"exec plugin {os.path.basename(plugin.command)!r}"  # noqa: PTH119  # no path is followed
    code, output, errors = await _run(plugin, name, limits)
    if code != 0:
        last_line = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        reason = _LONG_WORD.sub("…", " ".join(last_line.split()))[:_MAX_REASON_CHARACTERS]
        raise ClusterUnavailableError(f"{name} ended with {code}{f': {reason}' if reason else ''}")
    try:
        return _credential(json.loads(output), plugin)
    except (ValueError, RecursionError):
        raise ClusterUnavailableError(f"{name} did not print JSON") from None
    except (ConfigurationError, _UnusableOutputError) as error:
        raise ClusterUnavailableError(f"{name}: {error}") from None


class _UnusableOutputError(Exception):
    """The output is JSON, but does not contain credentials."""


class _Output(asyncio.SubprocessProtocol):
    """Collects what a program prints, up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.printed = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        kept = self.printed[fd]
        kept += data[: self._max_bytes - len(kept)]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the protocol's name
        if not self.ended.done():
            self.ended.set_result(None)


async def _run(plugin: ExecPlugin, name: str, limits: PluginLimits) -> tuple[int, bytes, bytes]:
    interactive = plugin.interactive_mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
    if plugin.interactive_mode == "Always" and not interactive:
        raise ClusterUnavailableError(
            f"{name} needs a person (interactiveMode Always), but there is no terminal"
        )
    loop = asyncio.get_running_loop()
    try:
        transport, output = await loop.subprocess_exec(
            lambda: _Output(limits.output_bytes),
            plugin.command,
            *plugin.arguments,
            env=_environment(plugin, interactive=interactive),
            stdin=None if interactive else subprocess.DEVNULL,
            # In a session of its own, a plugin's child processes can be ended with it. An interactive plugin
            # must stay in the terminal's session.
            start_new_session=not interactive,
        )
    except OSError as error:
        raise ClusterUnavailableError(f"{name} cannot be run: {error.strerror}") from error
    except ValueError as error:  # a NUL in an argument
        raise ClusterUnavailableError(f"{name} cannot be run: {error}") from error
    try:
        async with asyncio.timeout(limits.run_seconds):
            await output.ended
    except TimeoutError:
        raise ClusterUnavailableError(
            f"{name} did not end within {limits.run_seconds:g} s and was stopped"
        ) from None
    finally:
        if not output.ended.done() or output.ended.cancelled():
            _kill(transport.get_pid(), group=not interactive)
        transport.close()
    code = transport.get_returncode()
    return code if code is not None else -1, bytes(output.printed[_STDOUT]), bytes(output.printed[_STDERR])


def _kill(pid: int, *, group: bool) -> None:
    with suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _environment(plugin: ExecPlugin, *, interactive: bool) -> dict[str, str]:
    spec: dict[str, Any] = {"interactive": interactive}
    if plugin.cluster:
        spec["cluster"] = json.loads(plugin.cluster)
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    return {**os.environ, **dict(plugin.environment), "KUBERNETES_EXEC_INFO": json.dumps(info)}


def _credential(answer: Any, plugin: ExecPlugin) -> PluginCredential:
    if not isinstance(answer, dict) or answer.get("kind") != "ExecCredential":
        raise _UnusableOutputError("printed no ExecCredential")
    if answer.get("apiVersion") != plugin.api_version:
        raise _UnusableOutputError(f"did not answer in {plugin.api_version}, as its kubeconfig entry demands")
    status = answer.get("status")
    if not isinstance(status, dict):
        raise _UnusableOutputError("printed no status")
    token, certificate, key = (
        status.get(name) or "" for name in ("token", "clientCertificateData", "clientKeyData")
    )
    if not all(isinstance(value, str) for value in (token, certificate, key)):
        raise _UnusableOutputError("printed credentials that are not text")
    if not token and not certificate and not key:
        raise _UnusableOutputError("printed neither a token nor a certificate")
    if bool(certificate) != bool(key):
        raise _UnusableOutputError("printed only one of certificate and key")
    return PluginCredential(
        authorization=f"Bearer {checked_header(token.strip(), 'status', 'token')}" if token else None,
        certificate=ClientCertificate(certificate.encode(), key.encode()) if certificate else None,
        expires=_expiry(status.get("expirationTimestamp")),
    )


def _expiry(value: Any) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _UnusableOutputError("printed an expirationTimestamp that is not an RFC 3339 time")
    return moment.timestamp()
