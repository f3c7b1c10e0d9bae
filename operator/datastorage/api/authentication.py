"""From the Authorization header to the caller. No other header says anything about who sends a request."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from starlette.datastructures import Headers

from datastorage.api.reviewcache import Limits, ReviewCache
from datastorage.errors import NotAuthenticatedError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.metrics import Review
from datastorage.records.caller import Caller
from datastorage.records.hashes import sha256

# RFC 6750 has these characters, and RFC 9110 a scheme in any case.
_BEARER: Final = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)")


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """Limits on the Authorization header."""

    characters: int = 8192
    """The token of a ServiceAccount has about 1,000 characters, one of OpenID Connect with many groups some
    thousands."""


class Authentication:
    """Finds the callers of requests by their bearer tokens."""

    def __init__(
        self,
        reviews: AccessReviews,
        audiences: Sequence[str],
        *,
        header_limits: HeaderLimits = HeaderLimits(),
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A token must be valid for one of the audiences. ``clock`` is in seconds.

        Raises ValueError without an audience: the API server would then accept tokens that are for itself.
        """
        if not audiences:
            raise ValueError("authentication needs at least one audience")
        self._reviews = reviews
        self._audiences = tuple(audiences)
        self._header_limits = header_limits
        self._cache: ReviewCache[bytes, Caller] = ReviewCache(Review.TOKEN, limits=limits, clock=clock)

    async def caller_of(self, headers: Headers) -> Caller:
        """Return the caller of a request with these headers.

        Raises NotAuthenticatedError if there is no valid token, and ClusterUnavailableError if the API server
        does not say whether it is valid.
        """
        token = self._token(headers.getlist("authorization"))
        key = sha256("\0".join((token.get_secret_value(), *self._audiences)).encode())
        caller = await self._cache.get(key, lambda: self._reviews.caller_of(token, self._audiences))
        if caller is None:
            raise NotAuthenticatedError(
                "the API server does not accept the token: it has expired, is void or forged, or is not for "
                f"the audience {' or '.join(self._audiences)}; get one with: kubectl create token "
                f"SERVICEACCOUNT --audience {self._audiences[0]}"
            )
        return caller

    async def close(self) -> None:
        """End the reviews under way."""
        await self._cache.close()

    def _token(self, values: Sequence[str]) -> SecretStr:
        if not values:
            raise NotAuthenticatedError("no credentials: send the header Authorization: Bearer TOKEN")
        if len(values) > 1:
            raise NotAuthenticatedError("the request has more than one Authorization header: send one")
        limit = self._header_limits.characters
        if len(values[0]) > limit:
            raise NotAuthenticatedError(f"the Authorization header has more than {limit} characters")
        match = _BEARER.fullmatch(values[0])
        if match is None:
            raise NotAuthenticatedError("the Authorization header is not of the form: Bearer TOKEN")
        return SecretStr(match[1])
