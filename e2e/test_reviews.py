"""The running operator asks the API server about a caller once in a while, and trusts its token alone."""

import math
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from datastorage.api.reviewcache import Limits
from e2e.callers import forged, reviews_counted
from e2e.storing import Callers, body
from e2e.workbench import Workbench
from harness.apiclient import Answer, ApiClient
from harness.polling import until

THREADS, REQUESTS = 32, 600
FORGED_HEADERS = {
    "Impersonate-User": "system:admin", "Impersonate-Group": "system:masters", "Impersonate-Uid": "0",
    "X-Remote-User": "system:admin", "X-Remote-Group": "system:masters", "X-Remote-Extra-Scopes": "all",
    "X-Forwarded-User": "system:admin", "X-Forwarded-Access-Token": "x", "Cookie": "token=system:admin",
}  # fmt: skip
ROLES = ("datastorage-writer", "datastorage-archive-reader")


@pytest.fixture
def callers(workbench: Workbench) -> Any:
    made = Callers(workbench.cluster, workbench.namespace)
    yield made
    made.close()


async def counted(workbench: Workbench) -> Counter[str]:
    """Return how many reviews the API server has served; it counts one only after its answer."""
    last = reviews_counted(workbench.cluster)

    async def stands() -> bool:
        nonlocal last
        before, last = last, reviews_counted(workbench.cluster)
        return before == last

    await until(stands, what="the API server has counted all requests")
    return last


async def test_many_requests_at_once_cost_one_review_of_each_kind(
    workbench: Workbench, callers: Callers
) -> None:
    client = ApiClient(workbench.start_operator().api_url, callers.token("busy", *ROLES))
    namespace = workbench.namespace

    def request(number: int) -> Answer:
        match number % 4:
            case 0:
                return client.post("/store/workflow", body(namespace, uid=str(uuid.uuid4())))
            case 1:
                return client.get("/query/records", namespace=namespace, pageSize="1")
            case 2:
                return client.get(f"/query/records/{uuid.uuid4()}", namespace=namespace)
            case _:
                return client.get("/query/records")  # the right in the whole cluster, which it lacks

    before = await counted(workbench)
    started = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        answers = Counter(answer.status for answer in pool.map(request, range(REQUESTS)))
    periods = math.floor((time.monotonic() - started) / Limits().seconds) + 1
    assert answers.keys() <= {201, 200, 404, 403, 429, 503}, answers
    assert min(answers[status] for status in (201, 200, 404, 403)) > 0, answers
    asked = await counted(workbench) - before
    assert 1 <= asked["tokenreviews"] <= periods
    # To create in the namespace; to list and to get in the cluster, and in the namespace.
    assert 5 <= asked["subjectaccessreviews"] <= 5 * periods


def test_no_header_but_the_token_says_who_asks(workbench: Workbench, callers: Callers) -> None:
    url, namespace = workbench.start_operator().api_url, workbench.namespace
    token = callers.token("writer", *ROLES)
    client, nobody = ApiClient(url, token), ApiClient(url)
    stored = client.post("/store/workflow", body(namespace), FORGED_HEADERS)
    assert (stored.status, stored.json["recordedBy"]) == (201, f"system:serviceaccount:{namespace}:writer")
    everywhere = client.get("/query/records", FORGED_HEADERS)
    assert (everywhere.status, everywhere.json["code"]) == (403, "not-allowed")
    assert nobody.post("/store/workflow", body(namespace), FORGED_HEADERS).status == 401
    assert nobody.get("/query/records", FORGED_HEADERS, namespace=namespace).status == 401
    # Neither a token in another place nor a forged one.
    assert nobody.get("/query/records", {"X-Auth-Token": token}, namespace=namespace).status == 401
    assert nobody.get("/query/records", namespace=namespace, access_token=token).status in {400, 401}
    for how, forgery in forged(token).items():
        answer = ApiClient(url, forgery).get("/query/records", FORGED_HEADERS, namespace=namespace)
        assert (answer.status, answer.json["code"]) == (401, "not-authenticated"), how
        assert forgery.encode() not in answer.content
    for audience in ((), ("--audience", "somebody-else")):
        made = workbench.cluster.kubectl("create", "token", "writer", "-n", namespace, *audience)
        foreign = ApiClient(url, made.stdout.strip()).post("/store/workflow", body(namespace))
        assert (foreign.status, foreign.headers["www-authenticate"]) == (401, "Bearer")
    assert len(client.get("/query/records", namespace=namespace).json["items"]) == 1
