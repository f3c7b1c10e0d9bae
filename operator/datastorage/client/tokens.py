"""Where the token of a request to a server comes from.

A token is for an audience. One for the API server would be refused by our server, and would give whoever runs
that server the caller's rights in the cluster. So the token of a kubeconfig's user is sent if it says that it
is for our audience, and otherwise on demand alone; a token for a ServiceAccount is asked for with the right
audience.
"""

import base64
import binascii
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from datastorage.errors import ClusterError, ClusterUnavailableError, ConfigurationError, NotAllowedError
from datastorage.files import read_secret
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.endpoint import Endpoint, checked_header
from datastorage.kube.execplugin import PluginLimits, run_plugin
from datastorage.kube.transport import Transport
from datastorage.records.times import time_of

_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_BEARER: Final = "Bearer "
# The shortest lifetime that the API server grants. A command takes less, but for an export.
_LIFETIME_SECONDS: Final = 600
# A token is replaced this long before it expires, so that requests under way arrive in time.
_MARGIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class NoToken:
    """Sends none: only a server without authentication answers then."""

    reason: str
    """Why there is no token, and what to do."""

    async def token(self) -> SecretStr | None:
        """Return None."""
        return None

    @property
    def advice(self) -> str:
        """The way to a token that the server accepts."""
        return self.reason


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that was given as text."""

    value: SecretStr
    origin: str
    """Its origin for people, such as the name of a variable."""
    audience: str

    async def token(self) -> SecretStr:
        """Return the token."""
        return _checked(self.value.get_secret_value(), self.origin)

    @property
    def advice(self) -> str:
        """The way to a token that the server accepts."""
        return _advice(self.origin, self.audience)


@dataclass(frozen=True, slots=True)
class FileToken:
    """A token in a file, which may be replaced at any time."""

    path: Path
    audience: str

    async def token(self) -> SecretStr:
        """Return the token that is in the file now. Raises ConfigurationError if it can't be read."""
        try:
            text = read_secret(self.path)
        except OSError as error:
            raise ConfigurationError(f"the file of the token {self.path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise ConfigurationError(f"the file of the token {self.path} is not text in UTF-8") from None
        return _checked(text, f"the file {self.path}")

    @property
    def advice(self) -> str:
        """The way to a token that the server accepts."""
        return _advice(f"the file {self.path}", self.audience)


class AccountToken:
    """A token of a ServiceAccount, which the API server makes for the caller (a TokenRequest)."""

    def __init__(self, transport: Transport, namespace: str, name: str, audience: str) -> None:
        """The identity of the transport needs the right to create serviceaccounts/token in the namespace."""
        self._transport = transport
        self._target = Target(_ACCOUNTS, namespace, name, "token")
        self._audience = audience
        self._token: SecretStr | None = None
        self._expires = 0.0

    async def token(self) -> SecretStr:
        """Return a token that is valid for a minute at least. Raises ClusterUnavailableError.

        Raises NotAllowedError if the API server makes none.
        """
        if self._token is None or _is_due(self._expires):
            await self._renew()
        assert self._token is not None
        return self._token

    @property
    def advice(self) -> str:
        """The way to a token that the server accepts."""
        return (
            f"the token of {self._target} is for the audience {self._audience!r}: does the server have "
            "another one (DATASTORAGE_API_AUDIENCE), or another cluster?"
        )

    async def _renew(self) -> None:
        spec = {"audiences": [self._audience], "expirationSeconds": _LIFETIME_SECONDS}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        try:
            answer = await self._transport.call(ApiRequest("POST", self._target, body=body))
        except ClusterUnavailableError:
            raise
        except ClusterError as error:
            raise NotAllowedError(f"the API server makes no token: {error}") from error
        status = answer.get("status")
        token = status.get("token") if isinstance(status, dict) else None
        expires = time_of(status.get("expirationTimestamp")) if isinstance(status, dict) else None
        if not isinstance(token, str) or not token or expires is None:
            raise ClusterUnavailableError(f"{self._target}: API server: the answer has no token")
        self._token, self._expires = SecretStr(token), expires.timestamp()


@dataclass
class UserToken:
    """The token of a kubeconfig's user, which may come from a plugin."""

    endpoint: Endpoint
    audience: str
    on_demand: bool
    """Whether the caller has asked to send it, whatever its audience."""
    _found: SecretStr | None = field(default=None, init=False, repr=False)
    _expires: float = field(default=math.inf, init=False)
    """In seconds since the epoch; only a plugin says when its token expires."""
    _reason: str | None = field(default=None, init=False)

    async def token(self) -> SecretStr | None:
        """Return the token, or None if there is none that may be sent.

        Raises TransientError if a plugin fails.
        """
        if self._reason is None and (self._found is None or _is_due(self._expires)):
            await self._find()
        return self._found

    @property
    def advice(self) -> str:
        """The way to a token that the server accepts."""
        return self._reason or _advice(f"{self.endpoint.source}", self.audience)

    async def _find(self) -> None:
        self._found = None
        authorization = self.endpoint.authorization
        if authorization is None and self.endpoint.plugin is not None:
            issued = await run_plugin(self.endpoint.plugin, PluginLimits())
            authorization = issued.authorization
            self._expires = math.inf if issued.expires is None else issued.expires
        remedy = remedies(self.audience)
        if authorization is None or not authorization.startswith(_BEARER):
            self._reason = f"the user of {self.endpoint.source} has no token to send: {remedy}"
            return
        token = authorization.removeprefix(_BEARER)
        claims = _claims(token)
        audiences = _texts(claims.get("aud"))
        if self.on_demand or self.audience in audiences:
            self._found = SecretStr(token)
            return
        account = claims.get("sub")
        if isinstance(account, str) and account.startswith("system:serviceaccount:"):
            remedy = remedies(self.audience, account.removeprefix("system:serviceaccount:").replace(":", "/"))
        meant = f"is for {', '.join(audiences)}" if audiences else "names no audience"
        self._reason = (
            f"the token of the user of {self.endpoint.source} {meant}, so it was not sent: {remedy}"
        )


def _is_due(expires: float) -> bool:
    return time.time() > expires - _MARGIN_SECONDS


def remedies(audience: str, account: str = "NAMESPACE/NAME") -> str:
    """Return the ways to give a token, for errors."""
    return (
        f"use --as-serviceaccount {account}, or give a token for the audience {audience!r} with --token-file "
        "or DATASTORAGE_TOKEN"
    )


def _advice(origin: str, audience: str) -> str:
    return f"the token from {origin} must be valid now, and for the audience {audience!r}"


def _checked(token: str, origin: str) -> SecretStr:
    if not token:
        raise ConfigurationError(f"{origin} holds no token")
    return SecretStr(checked_header(token, origin, "the token"))


def _claims(token: str) -> dict[str, Any]:
    """Return the claims of a JSON Web Token, unverified; none for a token of another kind."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "==")) if len(parts) == 3 else None
    except (binascii.Error, ValueError, RecursionError):
        claims = None
    return claims if isinstance(claims, dict) else {}


def _texts(value: Any) -> Sequence[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
