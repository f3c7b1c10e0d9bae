"""The caller comes from one well-formed Authorization header, and from nothing else."""

from collections.abc import Sequence

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers

from datastorage.api.authentication import Authentication, HeaderLimits
from datastorage.errors import ClusterUnavailableError, NotAuthenticatedError
from datastorage.kube.accessreviews import AccessReviews
from datastorage.records.caller import Caller

ANN = Caller("ann")


class Reviews(AccessReviews):
    """Knows one token for each audience: owner.audience."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.away = False

    async def caller_of(self, token: SecretStr, audiences: Sequence[str]) -> Caller | None:
        text = token.get_secret_value()
        self.asked.append((text, tuple(audiences)))
        if self.away:
            raise ClusterUnavailableError("away")
        name, _, audience = text.partition(".")
        return Caller(name) if audience in audiences else None


@pytest.fixture
def reviews() -> Reviews:
    return Reviews()


@pytest.fixture
def authentication(reviews: Reviews) -> Authentication:
    return Authentication(reviews, ["datastorage"])


def headers(*authorization: str, **others: str) -> Headers:
    raw = [("authorization", value) for value in authorization]
    raw += [(name.replace("_", "-").lower(), value) for name, value in others.items()]
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in raw])


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR   "])
async def test_the_scheme_may_be_written_in_any_case(authentication: Authentication, scheme: str) -> None:
    assert await authentication.caller_of(headers(f"{scheme}ann.datastorage")) == ANN


async def test_a_token_may_have_all_characters_of_the_standard(
    authentication: Authentication, reviews: Reviews
) -> None:
    token = "azAZ09-._~+/=="
    with pytest.raises(NotAuthenticatedError):
        await authentication.caller_of(headers(f"Bearer {token}"))
    assert reviews.asked == [(token, ("datastorage",))]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "no credentials"),
        (["Bearer ann.datastorage", "Bearer ann.datastorage"], "more than one"),
        (["Bearer ann.datastorage, Bearer bob.datastorage"], "form"),
        (["Bearer"], "form"),
        (["Bearer "], "form"),
        (["Bearer ="], "form"),
        (["ann.datastorage"], "form"),
        (["Basic YW5uOmE="], "form"),
        (["Bearerann.datastorage"], "form"),
        (["Bearer\tann.datastorage"], "form"),
        (["Bearer ann.datastorage "], "form"),
        (["Bearer ann.datastorage\n"], "form"),
        (["Bearer ann.dat\xe4storage"], "form"),
        (["Bearer an=n.datastorage"], "form"),
        (["Bearer ann.datastorage\x00"], "form"),
        (["Bearer " + "a" * 8192], "more than 8192 characters"),
    ],
)
async def test_any_other_header_is_refused_without_a_review(
    authentication: Authentication, reviews: Reviews, values: list[str], said: str
) -> None:
    with pytest.raises(NotAuthenticatedError, match=said) as caught:
        await authentication.caller_of(headers(*values))
    assert reviews.asked == []
    assert "ann" not in str(caught.value)


async def test_the_limit_of_length_can_be_reached(reviews: Reviews) -> None:
    value = "Bearer ann.datastorage"
    limit = HeaderLimits(characters=len(value))
    authentication = Authentication(reviews, ["datastorage"], header_limits=limit)
    assert await authentication.caller_of(headers(value)) == ANN
    with pytest.raises(NotAuthenticatedError, match="more than"):
        await authentication.caller_of(headers(f"{value}x"))


async def test_other_headers_say_nothing(authentication: Authentication, reviews: Reviews) -> None:
    others = {
        "X_Remote_User": "admin", "X_Remote_Group": "system:masters", "X_Forwarded_User": "admin",
        "Impersonate_User": "admin", "Impersonate_Group": "system:masters", "Impersonate_Uid": "0",
        "Proxy_Authorization": "Bearer bob.datastorage", "X_Authorization": "Bearer bob.datastorage",
    }  # fmt: skip
    assert await authentication.caller_of(headers("Bearer ann.datastorage", **others)) == ANN
    assert reviews.asked == [("ann.datastorage", ("datastorage",))]
    with pytest.raises(NotAuthenticatedError, match="no credentials"):
        await authentication.caller_of(headers(**others))


async def test_both_answers_are_remembered(authentication: Authentication, reviews: Reviews) -> None:
    for _ in range(3):
        assert await authentication.caller_of(headers("Bearer ann.datastorage")) == ANN
        with pytest.raises(NotAuthenticatedError, match="audience datastorage;") as caught:
            await authentication.caller_of(headers("Bearer ann.elsewhere"))
        assert "ann.elsewhere" not in str(caught.value)
    assert len(reviews.asked) == 2


async def test_without_an_answer_nobody_is_authenticated(
    authentication: Authentication, reviews: Reviews
) -> None:
    reviews.away = True
    for _ in range(2):
        with pytest.raises(ClusterUnavailableError):
            await authentication.caller_of(headers("Bearer ann.datastorage"))
    reviews.away = False
    assert await authentication.caller_of(headers("Bearer ann.datastorage")) == ANN


def test_an_audience_is_required(reviews: Reviews) -> None:
    with pytest.raises(ValueError, match="at least one audience"):
        Authentication(reviews, [])
