"""Asks the API server about the senders of requests to our API: their identity, and their rights.

Whatever is not a clear answer is an error, never a yes. The rights to our own sending are those of the
ClusterRole system:auth-delegator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from datastorage.errors import ClusterError, ClusterUnavailableError, ForbiddenError
from datastorage.kube.apirequest import ApiRequest, Resource, Target
from datastorage.kube.transport import AnswerTooLargeError, Transport
from datastorage.records.caller import Access, Caller

_TOKEN_REVIEWS: Final = Target(Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview"))
_ACCESS_REVIEWS: Final = Target(
    Resource("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview")
)
_REMEDY: Final = (
    "the operator needs the right to create tokenreviews.authentication.k8s.io and "
    "subjectaccessreviews.authorization.k8s.io: bind the ClusterRole system:auth-delegator to its "
    "ServiceAccount, as manifests/base/rbac.yaml does"
)


@dataclass(frozen=True, slots=True)
class ReviewLimits:
    """Limits on one review."""

    seconds: float = 5.0
    """For the API server's answer. It takes some milliseconds, or the time of an authentication webhook. A
    request to our API may need three reviews one after the other."""
    answer_bytes: int = 128 * 1024
    """An answer repeats the token and lists the user's groups. Thousands of groups fit, and the memory for
    each caller stays bounded."""


class AccessReviews:
    """Sends TokenReviews and SubjectAccessReviews.

    Every method raises ClusterUnavailableError if there is no answer. If the operator itself lacks the right
    to ask, the error names the remedy, and /ready names the right (rightsreview.py).
    """

    def __init__(self, transport: Transport, limits: ReviewLimits = ReviewLimits()) -> None:
        self._transport = transport
        self._answer_bytes = limits.answer_bytes
        self._timeout = aiohttp.ClientTimeout(total=limits.seconds)

    async def caller_of(self, token: SecretStr, audiences: Sequence[str]) -> Caller | None:
        """Return the owner of a token, or None if it is not valid for any of the audiences."""
        spec = {"token": token.get_secret_value(), "audiences": list(audiences)}
        status = await self._status(_TOKEN_REVIEWS, spec, has_secret=True)
        if status.get("authenticated") is not True:
            return None
        # An authenticator that knows no audiences accepts a token that was meant for another service. It
        # names no audience in its answer.
        accepted = status.get("audiences")
        if not isinstance(accepted, list) or not any(audience in accepted for audience in audiences):
            return None
        return _caller(status.get("user"))

    async def is_allowed(self, caller: Caller, access: Access) -> bool:
        """Return whether the caller has the right."""
        attributes = {"verb": access.verb, "group": access.group, "resource": access.resource}
        if access.namespace is not None:
            attributes["namespace"] = access.namespace
        spec = {
            "resourceAttributes": attributes,
            "user": caller.username,
            "uid": caller.uid,
            "groups": list(caller.groups),
            "extra": {name: list(values) for name, values in caller.extra},
        }
        status = await self._status(_ACCESS_REVIEWS, spec)
        return status.get("allowed") is True and status.get("denied", False) is False

    async def _status(
        self, target: Target, spec: Mapping[str, Any], *, has_secret: bool = False
    ) -> Mapping[str, Any]:
        resource = target.resource
        review = {"apiVersion": f"{resource.group}/{resource.version}", "kind": resource.kind, "spec": spec}
        try:
            answer = await self._transport.call(
                ApiRequest("POST", target, body=review, has_secret=has_secret),
                timeout=self._timeout,
                max_bytes=self._answer_bytes,
                review_right=True,
            )
        except ClusterUnavailableError:
            raise
        except AnswerTooLargeError as error:
            raise ClusterUnavailableError(
                f"{target}: the answer has more than {self._answer_bytes} bytes"
            ) from error
        except ForbiddenError as error:
            raise ClusterUnavailableError(f"{error}; {_REMEDY}") from error
        except ClusterError as error:
            raise ClusterUnavailableError(str(error)) from error
        status = answer.get("status")
        if not isinstance(status, dict):
            raise ClusterUnavailableError(
                f"{target}: API server: the answer has no status; is it an API server that answers?"
            )
        return status


class _User(BaseModel):
    model_config = ConfigDict(strict=True)

    username: str = Field(min_length=1)
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


def _caller(user: Any) -> Caller:
    try:
        read = _User.model_validate(user)
    except ValidationError:
        raise ClusterUnavailableError(
            f"{_TOKEN_REVIEWS}: API server: the answer names no user; is it an API server that answers?"
        ) from None
    extra = tuple((name, tuple(values)) for name, values in sorted(read.extra.items()))
    return Caller(read.username, read.uid, tuple(read.groups), extra)
