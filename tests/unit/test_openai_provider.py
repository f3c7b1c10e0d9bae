"""The OpenAI-compatible provider with a service that misbehaves: clear errors, and no wrong vector."""

import asyncio
import base64
import gzip
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from datastorage.embedding import Embedder, VectorCache
from datastorage.embedding.factory import build_provider
from datastorage.embedding.openai import OpenAIProvider, Pace
from datastorage.embedding.openai_answer import retry_after_seconds
from datastorage.embedding.provider import EmbedderBusyError, Provider, probe
from datastorage.errors import (
    ConfigurationError,
    EmbedderMisconfiguredError,
    EmbedderUnavailableError,
    EmbeddingRefusedError,
)
from datastorage.metrics import Dependency
from datastorage.records.hashes import text_hash
from datastorage.resilience.breaker import Breaker
from datastorage.secrets import origin_of
from datastorage.settings import Settings, load_settings, setting_names
from datastorage.settingsgroups import EmbeddingSettings
from harness.controlplane.certificates import Certificates, ensure_certificates
from harness.embeddings import (
    Behaviour,
    Endless,
    OpenAIService,
    body,
    changed,
    cut,
    cut_short,
    silence,
    status,
)
from harness.polling import DEADLINE_SECONDS

DIMENSIONS = 4
KEY = "sk-very-secret"
TEXT = "payment of alice failed"
IMPATIENCE = 1.0  # seconds; a request must reach the service within it, on a busy machine too
AT_ONCE = Pace(first_pause=0.0)
DEAF = Pace(first_pause=1000.0)
"""Waits far too long, unless it listens to the service."""

Make = Callable[..., OpenAIProvider]


@pytest_asyncio.fixture
async def service() -> AsyncIterator[OpenAIService]:
    made = OpenAIService(DIMENSIONS)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def make(service: OpenAIService) -> AsyncIterator[Make]:
    """Makes providers for the service, with other settings as given."""
    providers: list[OpenAIProvider] = []

    def provider(pace: Pace = AT_ONCE, **settings: Any) -> OpenAIProvider:
        providers.append(openai_provider(settings_for(**{"url": service.url, **settings}), pace))
        return providers[-1]

    yield provider
    for made in providers:
        await made.close()


def settings_for(**embedding: Any) -> Settings:
    defaults: dict[str, Any] = {
        "provider": "openai",
        "model": "tiny",
        "dimensions": DIMENSIONS,
        "api_key": KEY,
        "timeout_seconds": 20.0,
    }
    return Settings(embedding=EmbeddingSettings(**(defaults | embedding)))


def provider_of(settings: Settings) -> Provider | None:
    return build_provider(
        settings.embedding,
        url=replace(origin_of(settings, "embedding_url"), look_seconds=0.0),
        key=replace(origin_of(settings, "embedding_api_key"), look_seconds=0.0),
    )


def openai_provider(settings: Settings, pace: Pace = AT_ONCE) -> OpenAIProvider:
    return OpenAIProvider(
        settings.embedding,
        url=replace(origin_of(settings, "embedding_url"), look_seconds=0.0),
        key=replace(origin_of(settings, "embedding_api_key"), look_seconds=0.0),
        pace=pace,
    )


async def fails(provider: OpenAIProvider, *texts: str) -> str:
    """Embed; return the message of the failure, which must contain no secret."""
    with pytest.raises((EmbedderUnavailableError, EmbeddingRefusedError)) as caught:
        await provider.embed(texts or [TEXT])
    message = str(caught.value)
    assert KEY not in message
    assert "alice" not in message
    return message


async def test_the_request_is_what_openai_wants(service: OpenAIService, make: Make) -> None:
    rows = await make().embed(["a", "bbb"])
    np.testing.assert_array_equal(rows, [[1, 1, 1, 1], [3, 1, 1, 1]])
    assert rows.dtype == np.float32
    assert service.requests == [
        {"model": "tiny", "input": ["a", "bbb"], "dimensions": DIMENSIONS, "encoding_format": "base64"}
    ]
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_a_service_that_passes_over_the_encoding_is_understood(
    service: OpenAIService, make: Make
) -> None:
    service.only_lists = True
    rows = await make().embed(["a", "bbb"])
    np.testing.assert_array_equal(rows, [[1, 1, 1, 1], [3, 1, 1, 1]])
    assert rows.dtype == np.float32
    assert len(service.requests) == 1


async def test_without_a_key_none_is_sent(service: OpenAIService, make: Make) -> None:
    await make(api_key="").embed(["a"])
    assert "Authorization" not in service.headers[0]


async def test_credentials_in_the_url_are_used_and_never_shown(service: OpenAIService, make: Make) -> None:
    url = service.url.replace("://", "://alice:pass@")
    provider = make(url=url, api_key="")
    await provider.embed(["a"])
    expected = base64.b64encode(b"alice:pass").decode()
    assert service.headers[0]["Authorization"] == f"Basic {expected}"
    service.behaviours = [status(418)]
    assert "pass" not in await fails(provider)


@pytest.mark.parametrize("suffix", ["/", "/embeddings", "/embeddings/"])
async def test_the_url_may_be_given_in_several_ways(service: OpenAIService, make: Make, suffix: str) -> None:
    assert len(await make(url=service.url + suffix).embed(["a"])) == 1


async def test_no_texts_cost_no_request(service: OpenAIService, make: Make) -> None:
    assert (await make().embed([])).shape == (0, DIMENSIONS)
    assert service.requests == []


async def test_many_texts_go_in_several_requests_a_few_at_a_time(service: OpenAIService, make: Make) -> None:
    texts = ["x" * number for number in range(1, 1001)]
    rows = await make(batch_size=100).embed(texts)
    np.testing.assert_array_equal(rows[:, 0], range(1, 1001))
    assert [len(request["input"]) for request in service.requests] == [100] * 10
    assert 1 < service.most_at_once <= 4


async def test_the_index_decides_the_order(service: OpenAIService, make: Make) -> None:
    service.behaviours = [changed(lambda answer: answer["data"].reverse(), service)]
    rows = await make().embed(["a", "bb", "ccc"])
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3])


def _base64(count: int) -> str:
    return base64.b64encode(np.ones(count, "<f4").tobytes()).decode()


def _item(answer: dict[str, Any], **change: Any) -> None:
    answer["data"][0] |= change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda answer: answer["data"].__delitem__(0), "1 vectors for 2 texts"),
        (lambda answer: answer["data"].append(answer["data"][0]), "3 vectors for 2 texts"),
        (lambda answer: _item(answer, index=1), "indexes are not those"),
        (lambda answer: _item(answer, index=2), "indexes are not those"),
        (lambda answer: _item(answer, index=-1), "indexes are not those"),
        (lambda answer: _item(answer, index=True), "without indexes"),
        (lambda answer: _item(answer, index="0"), "without indexes"),
        (lambda _: {"data": [{"embedding": [1.0] * 4}] * 2}, "without indexes"),
        (lambda answer: _item(answer, embedding=[1.0] * 3), "vectors of 3 numbers instead of 4"),
        (lambda answer: _item(answer, embedding=[1.0] * 5), "vectors of 5 numbers instead of 4"),
        (lambda answer: _item(answer, embedding=[]), "vectors of 0 numbers instead of 4"),
        (lambda answer: _item(answer, embedding=[1.0, 1.0, 1.0, "1.0"]), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=[1.0, 1.0, 1.0, None]), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=[1.0, 1.0, 1.0, True]), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=[1.0, 1.0, 1.0, [1.0]]), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=None), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=_base64(5)), "vectors of 5 numbers instead of 4"),
        (lambda answer: _item(answer, embedding=_base64(0)), "vectors of 0 numbers instead of 4"),
        (lambda answer: _item(answer, embedding=_base64(4)[:-2]), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding="AACAPwA="), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding="?" * 24), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding="é" * 24), "else than lists of numbers"),
        (lambda answer: _item(answer, embedding=[10**400, 1, 1, 1]), "beyond all bounds"),
        (lambda _: {"data": None}, "JSON without vectors"),
        (lambda _: {"data": [None, None]}, "without indexes"),
        (lambda _: {"error": f"{KEY} {TEXT}"}, "JSON without vectors"),
        (lambda _: [1, 2], "JSON without vectors"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_no_set_of_vectors_is_no_answer(
    service: OpenAIService, make: Make, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    service.behaviours = [changed(change, service)]
    provider = make()
    assert expected in await fails(provider, TEXT, "b")
    assert len(service.requests) == 1, "it would be the same again"
    assert len(await provider.embed(["a"])) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1e300", "0"])
async def test_a_number_that_is_none_is_a_matter_of_that_text_alone(
    service: OpenAIService, make: Make, number: str
) -> None:
    first = f'{{"index": 0, "embedding": [{number}, 0, 0, 0]}}'
    second = '{"index": 1, "embedding": [1, 2, 3, 4]}'
    service.behaviours = [body(f'{{"data": [{first}, {second}]}}')]
    rows = await make().embed(["a", "b"])
    np.testing.assert_array_equal(rows[1], [1, 2, 3, 4])
    assert not rows[0].any() or not np.isfinite(rows[0]).all()


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (
            body(f"<html>{KEY}</html>", "text/html"),
            "answered text/html instead of JSON, is DATASTORAGE_EMBEDDING_URL",
        ),
        (body("", "text/plain"), "answered text/plain instead of JSON"),
        (body('{"data": [{"index": 0, "embedding": [1.0, 2'), "broken JSON"),
        (body(b"\xff\xfe\x00"), "broken JSON"),
        (body("[" * 1_000), "broken JSON"),
        (body("9" * 5000), "broken JSON"),
        (body("null"), "JSON without vectors"),
    ],
)
async def test_an_answer_that_is_not_json_is_reported_as_such(
    service: OpenAIService, make: Make, behaviour: Behaviour, expected: str
) -> None:
    service.behaviours = [behaviour]
    assert expected in await fails(make())


async def test_an_endless_answer_is_cut_off(service: OpenAIService, make: Make) -> None:
    endless = Endless()
    service.behaviours = [endless]
    assert "far more than vectors" in await fails(make())
    await asyncio.wait_for(endless.ended.wait(), DEADLINE_SECONDS)
    assert endless.sent < 32 * 2**20


@pytest.mark.parametrize("filling", ["[" * 9000, "{}," * 9000, '"",' * 9000])
async def test_an_answer_that_would_grow_in_memory_is_not_read(
    service: OpenAIService, make: Make, filling: str
) -> None:
    service.behaviours = [body(f'{{"data": [{filling}]}}')]
    assert "answered far more than vectors" in await fails(make())


async def test_a_small_answer_that_unpacks_to_a_huge_one_is_cut_off(
    service: OpenAIService, make: Make
) -> None:
    packed = gzip.compress(b" " * 2**26)

    async def bomb(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(
            body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )

    service.behaviours = [bomb]
    assert "far more than vectors" in await fails(make())


async def test_a_service_that_never_answers_is_given_up(service: OpenAIService, make: Make) -> None:
    service.behaviours = [silence, silence, silence]
    assert f"gave no answer within {IMPATIENCE:g} s" in await fails(make(timeout_seconds=IMPATIENCE))
    assert len(service.requests) == 1, "waiting again would take as long again"


async def test_a_call_that_is_ended_from_outside_leaves_nothing_behind(
    service: OpenAIService, make: Make
) -> None:
    service.behaviours = [silence] * 3
    provider = make(batch_size=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(IMPATIENCE):
            await provider.embed(["a", "b", "c"])
    assert len(await provider.embed(["a"] * 8)) == 8, "its turns are free again"


@pytest.mark.parametrize("behaviour", [status(500), status(502), status(503), status(429), cut, cut_short])
async def test_a_passing_trouble_is_tried_again(
    service: OpenAIService, make: Make, behaviour: Behaviour
) -> None:
    service.behaviours = [behaviour, behaviour]
    assert len(await make().embed(["a"])) == 1
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (status(500, f"{KEY} {TEXT}"), "answered with status 500"),
        (status(429, f"{KEY} {TEXT}"), "too many requests (429)"),
        (cut, "can't be reached"),
    ],
)
async def test_a_lasting_trouble_is_given_up(
    service: OpenAIService, make: Make, behaviour: Behaviour, expected: str
) -> None:
    service.behaviours = [behaviour] * 10
    assert expected in await fails(make())
    assert len(service.requests) == 3


async def test_an_absent_service_is_reported_as_absent(service: OpenAIService, make: Make) -> None:
    provider = make()
    url = service.url
    await service.stop()
    message = await fails(provider)
    assert message.startswith(f"The embedding service at {url}/embeddings can't be reached (")
    assert "refused" in message.lower()


def in_a_while(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("wait", ["0", "seconds", "date"])
async def test_it_waits_as_long_as_the_service_asks(
    service: OpenAIService, make: Make, monkeypatch: pytest.MonkeyPatch, code: int, wait: str
) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    header = {"0": "0", "seconds": "7", "date": in_a_while(7)}[wait]
    service.behaviours = [status(code, headers={"Retry-After": header})]
    assert len(await make(DEAF).embed(["a"])) == 1
    expected = 0.0 if wait == "0" else 7.0
    assert expected - 2 <= max(waited) <= expected


@pytest.mark.parametrize(
    ("behaviour", "busy"),
    [
        (status(429), True),
        (status(429, headers={"Retry-After": "0"}), True),
        (status(503, headers={"Retry-After": "0"}), True),
        (status(500), False),
        (status(503), False),
        (cut, False),
    ],
)
async def test_a_request_for_a_pause_refuses_no_text(
    service: OpenAIService, make: Make, behaviour: Behaviour, *, busy: bool
) -> None:
    service.behaviours = [behaviour] * 3
    with pytest.raises(EmbedderUnavailableError) as caught:
        await make().embed(["a"])
    assert isinstance(caught.value, EmbedderBusyError) is busy


async def test_one_text_that_it_answers_with_an_error_costs_no_other_its_vector(
    service: OpenAIService, make: Make
) -> None:
    async def fails_with_the_bad_one(_: web.Request, request: dict[str, Any]) -> web.StreamResponse:
        service.behaviours.append(fails_with_the_bad_one)
        if "bad" in request["input"]:
            return web.Response(status=500, text="input is too large to process")
        return web.json_response(service.answer(request))

    service.behaviours = [fails_with_the_bad_one]
    provider = make(batch_size=16)
    breaker = Breaker(Dependency.EMBEDDER, partial(probe, provider))
    embedder = Embedder(provider, VectorCache(provider.model), breaker)
    texts = [f"good {number}" for number in range(40)]
    embeddings = await embedder.embed(
        {text_hash(text): text for text in [*texts, "bad"]}, timeout_seconds=None
    )
    assert embeddings.vectors.keys() == {text_hash(text) for text in texts}
    [(refused, reason)] = embeddings.refused.items()
    assert refused == text_hash("bad")
    assert reason.endswith("answered with status 500, with this text alone")
    assert embeddings.error is None
    assert breaker.reason is None


@pytest.mark.parametrize(
    "header", ["3600", in_a_while(3600), "9" * 1000], ids=["seconds", "date", "many digits"]
)
async def test_it_does_not_wait_longer_than_it_may(service: OpenAIService, make: Make, header: str) -> None:
    service.behaviours = [status(429, headers={"Retry-After": header})]
    assert "too many requests (429)" in await fails(make())
    assert len(service.requests) == 1


def test_a_nonsensical_wait_is_ignored() -> None:
    for nonsense in (None, "", "soon", "-1", "1.5.2", "Wed, 99 Foo 2026", "\u0663"):
        assert retry_after_seconds(nonsense) is None
    assert retry_after_seconds(in_a_while(-100)) == 0.0
    assert retry_after_seconds(" 12 ") == 12.0


async def test_the_retries_together_are_bounded(service: OpenAIService, make: Make) -> None:
    service.behaviours = [status(500)] * 3
    message = await fails(make(DEAF, timeout_seconds=IMPATIENCE))
    assert f"gave no answer within {2 * IMPATIENCE:g} s and several tries" in message


@pytest.mark.parametrize("code", [400, 413, 422])
async def test_refused_texts_are_distinguished_from_an_absent_service(
    service: OpenAIService, make: Make, code: int
) -> None:
    provider = make()
    await provider.embed(["it serves"])
    service.behaviours = [status(code, f'{{"error": "{KEY} {TEXT} is too long"}}')] * 4
    with pytest.raises(EmbeddingRefusedError, match=rf"refuses the text \({code}\)"):
        await provider.embed(["a", "b"])
    assert len(service.requests) == 2, "one of several: it is looked for"
    with pytest.raises(EmbeddingRefusedError, match=rf"refuses the text \({code}\)"):
        await provider.embed(["a"])
    assert len(service.requests) == 5, "one alone: it is tried without the optional fields"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (401, "refuses the key (401), is DATASTORAGE_EMBEDDING_API_KEY right?"),
        (403, "refuses the key (403)"),
        (404, "no such address or no model tiny (404), are DATASTORAGE_EMBEDDING_URL and _MODEL right?"),
        (302, "redirects elsewhere (302), set DATASTORAGE_EMBEDDING_URL to the final address"),
        (204, "answered with status 204"),
        (418, "answered with status 418"),
    ],
)
async def test_a_status_is_explained_without_what_the_service_says(
    service: OpenAIService, make: Make, code: int, expected: str
) -> None:
    said = "" if code == 204 else f"the key {KEY} is wrong for {TEXT}"
    service.behaviours = [status(code, said, {"Location": "/v1/embeddings"})]
    message = await fails(make())
    assert expected in message
    assert message.startswith(f"The embedding service at {service.url}/embeddings ")
    assert len(service.requests) == 1


@pytest.mark.parametrize("field", ["dimensions", "encoding_format"])
async def test_a_field_that_the_service_refuses_is_left_out_from_then_on(
    service: OpenAIService, make: Make, field: str
) -> None:
    service.behaviours = [status(400, f"Unknown parameter: {field.upper()}")]
    provider = make()
    assert len(await provider.embed(["a"])) == 1
    assert len(await provider.embed(["b"])) == 1
    assert [field in request for request in service.requests] == [True, False, False]


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_refusal_without_a_name_is_tried_without_the_fields_until_it_has_served(
    service: OpenAIService, make: Make, refused: int
) -> None:
    service.behaviours = [status(400, "bad request")] * refused
    provider = make()
    assert len(await provider.embed(["a"])) == 1
    assert len(await provider.embed(["b"])) == 1
    left = {1: {"dimensions": DIMENSIONS}, 2: {}}[refused]
    assert service.requests[-1] == {"model": "tiny", "input": ["b"], **left}
    assert len(service.requests) == refused + 2


async def test_a_service_that_is_exchanged_for_a_stricter_one_goes_on(
    service: OpenAIService, make: Make
) -> None:
    provider = make()
    await provider.embed(["a"])
    service.behaviours = [status(400, "bad request")] * 2
    assert len(await provider.embed(["b"])) == 1
    assert service.requests[-1].keys() == {"model", "input"}


async def test_requests_at_once_of_a_service_that_names_nothing_cost_no_text(
    service: OpenAIService, make: Make
) -> None:
    """One request may learn which fields are refused while another one is under way with them."""

    async def strict(_: web.Request, request: dict[str, Any]) -> web.StreamResponse:
        service.behaviours.append(strict)
        await asyncio.sleep(0.001 * (len(request["input"][0]) % 7))
        if request.keys() != {"model", "input"}:
            return web.Response(status=400, text="bad request")
        return web.json_response(service.answer(request))

    for _ in range(10):
        service.behaviours = [strict] * 3
        provider = make()
        found = await asyncio.gather(*(provider.embed(["x" * n, "y"]) for n in range(1, 9)))
        assert [len(rows) for rows in found] == [2] * 8


async def test_a_text_that_is_refused_first_of_all_costs_no_field(service: OpenAIService, make: Make) -> None:
    service.behaviours = [status(400, "too long")] * 3
    provider = make()
    with pytest.raises(EmbeddingRefusedError):
        await provider.embed(["a"])
    await provider.embed(["b"])
    assert service.requests[-1].keys() == {"model", "input", "encoding_format", "dimensions"}


async def test_both_fields_may_be_refused(service: OpenAIService, make: Make) -> None:
    service.behaviours = [status(422, "extra fields: dimensions, encoding_format")] * 2
    assert len(await make().embed(["a"])) == 1
    assert service.requests[-1] == {"model": "tiny", "input": ["a"]}


async def test_a_refused_text_with_a_field_s_name_in_it_costs_no_field(
    service: OpenAIService, make: Make
) -> None:
    refusal = status(422, '{"input": "the dimensions of the queue"}')
    provider = make()
    await provider.embed(["it serves"])
    service.behaviours = [refusal, refusal, refusal]
    with pytest.raises(EmbeddingRefusedError):
        await provider.embed(["the dimensions of the queue"])
    await provider.embed(["a"])
    assert "dimensions" in service.requests[-1]


async def test_requests_at_once_agree_on_the_fields(service: OpenAIService, make: Make) -> None:
    service.behaviours = [status(400, "dimensions")] * 3
    rows = await make(batch_size=1).embed(["a", "bb", "ccc"])
    np.testing.assert_array_equal(rows[:, 0], [1, 2, 3])


async def test_one_failed_request_fails_the_call_and_ends_the_others(
    service: OpenAIService, make: Make
) -> None:
    service.behaviours = [silence, status(401), silence]
    assert "refuses the key" in await fails(make(batch_size=1), "a", "b", "c")


async def test_no_secret_is_in_the_log(
    service: OpenAIService, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    service.behaviours = [status(401, f"{KEY} {TEXT}"), *[status(400, f"{KEY} {TEXT}")] * 3, *[cut] * 3]
    provider = make()
    for _ in range(3):
        await fails(provider)
    assert KEY not in caplog.text
    assert "alice" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"url": ""}, "EMBEDDING_URL is not set"),
        ({"url": "ftp://host/v1"}, "EMBEDDING_URL is not an http"),
        ({"url": "host/v1"}, "EMBEDDING_URL is not an http"),
        ({"url": "https://"}, "EMBEDDING_URL is not an http"),
        ({"url": "https://alice:pass@host:nope/"}, "EMBEDDING_URL is not an http"),
        ({"url": "http://[::1"}, "EMBEDDING_URL is not an http"),
        ({"url": "http://alice:12/pass@host/v1"}, "EMBEDDING_URL is not an http"),
        ({"url": "http://alice:12?pass@host/v1"}, "EMBEDDING_URL is not an http"),
        ({"url": "http://alice:12#pass@host/v1"}, "EMBEDDING_URL is not an http"),
        ({"model": " "}, "EMBEDDING_MODEL is not set"),
        ({"model": "a\nb"}, "EMBEDDING_MODEL has characters that no model name has"),
        ({"api_key": "a\r\nb: c"}, "EMBEDDING_API_KEY has characters"),
        ({"api_key": "schlüssel"}, "EMBEDDING_API_KEY has characters"),
    ],
)
async def test_a_wrong_setting_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^DATASTORAGE_{named}") as caught:
        provider_of(settings_for(**{"url": "https://host/v1", **settings}))
    assert "pass" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_the_model_is_named_by_provider_and_name() -> None:
    provider = provider_of(settings_for(url="https://host/v1"))
    assert provider is not None
    assert str(provider.model) == "openai/tiny"
    assert provider.model.dimensions == DIMENSIONS


@pytest.mark.parametrize("skew", [-7200, 0, 7200])
def test_a_date_to_wait_for_is_by_the_clock_of_the_service(skew: int) -> None:
    assert retry_after_seconds(in_a_while(skew + 7), in_a_while(skew)) == pytest.approx(7, abs=1)
    assert retry_after_seconds("7", in_a_while(skew)) == 7.0
    assert retry_after_seconds(in_a_while(-100), "soon") == 0.0


async def test_a_certificate_that_is_not_trusted_is_no_absent_service(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path / "certificates")
    ensure_certificates(certificates, service_ip="127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.api_server.certificate, certificates.api_server.key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    provider = openai_provider(settings_for(url=f"https://127.0.0.1:{port}/v1"))
    with pytest.raises(EmbedderMisconfiguredError, match=r"not trusted .*SSL_CERT_FILE"):
        await provider.embed([TEXT])
    await provider.close()
    server.close()


@pytest.fixture
def secrets_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A secrets directory that is read with each request, and no settings of the machine."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATASTORAGE_SECRETS_DIR", str(tmp_path))
    for name, value in (("PROVIDER", "openai"), ("MODEL", "small"), ("DIMENSIONS", str(DIMENSIONS))):
        monkeypatch.setenv(f"DATASTORAGE_EMBEDDING_{name}", value)
    return tmp_path


async def test_a_new_key_is_taken_from_the_file(
    service: OpenAIService, secrets_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, url = (secrets_directory / f"DATASTORAGE_EMBEDDING_{name}" for name in ("API_KEY", "URL"))
    key.write_text("one")
    url.write_text(service.url)
    provider = openai_provider(load_settings())
    await provider.embed([TEXT])
    service.behaviours = [status(401)]
    with pytest.raises(EmbedderUnavailableError):
        await provider.embed([TEXT])
    key.write_text("two\n")
    await provider.embed([TEXT])
    key.write_text("hunter2 \N{SNOWMAN}")
    await provider.embed([TEXT])
    assert [headers["Authorization"] for headers in service.headers] == [
        "Bearer one", "Bearer one", "Bearer two", "Bearer two",
    ]  # fmt: skip
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "DATASTORAGE_EMBEDDING_API_KEY" in caplog.text
    assert "hunter2" not in caplog.text
    await provider.close()


async def test_a_new_address_is_taken_from_the_file(service: OpenAIService, secrets_directory: Path) -> None:
    url = secrets_directory / "DATASTORAGE_EMBEDDING_URL"
    url.write_text("http://127.0.0.1:1/v1")
    provider = openai_provider(load_settings())
    with pytest.raises(EmbedderUnavailableError, match=r"127\.0\.0\.1:1/v1/embeddings can't be reached"):
        await provider.embed([TEXT])
    url.write_text(service.url.replace("//", "//user:pass@"))
    await provider.embed([TEXT])
    assert service.headers[-1]["Authorization"].startswith("Basic ")
    await provider.close()


async def test_a_service_that_refuses_is_asked_over_a_new_connection(
    service: OpenAIService, make: Make
) -> None:
    """Its name may resolve to another server by now, while the old one refuses its open connections."""
    peers: list[Any] = []

    async def note(request: web.Request, refused: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        return web.Response(status=404) if len(peers) == 2 else web.json_response(service.answer(refused))

    service.behaviours = [note] * 3
    provider = make(replace(AT_ONCE, renew=0.0))
    await provider.embed([TEXT])
    with pytest.raises(EmbedderUnavailableError):
        await provider.embed([TEXT])
    await provider.embed([TEXT])
    assert peers[0] == peers[1] != peers[2]


async def test_a_new_authority_of_certificates_is_trusted_without_a_restart(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "trusted.crt"
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    made = [Certificates(tmp_path / name) for name in ("one", "two")]
    for certificates in made:
        ensure_certificates(certificates, service_ip="127.0.0.1")
    trusted.write_bytes(made[0].ca.read_bytes())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made[1].api_server.certificate, made[1].api_server.key)
    service = OpenAIService(DIMENSIONS)
    await service.start(tls)
    provider = make(url=service.url)
    with pytest.raises(EmbedderUnavailableError, match="certificate verify failed"):
        await provider.embed([TEXT])
    (tmp_path / "new").write_bytes(made[1].ca.read_bytes())
    (tmp_path / "new").rename(trusted)
    await provider.embed([TEXT])
    await service.stop()
