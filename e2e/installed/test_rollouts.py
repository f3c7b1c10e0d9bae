"""New releases and settings, good and bad ones: no read fails, and records are stored all the while."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

import pytest

from e2e.installed.clientpod import ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation, Pod, image_of
from harness.installed import DEPLOYMENT, REDIS
from harness.polling import until

_STAYS = "The new value of DATASTORAGE_DATABASE_URL does not work yet; the previous one stays in use"
_CONTAINERS = (("initContainers", "migrate"), ("containers", "datastorage"))
_CANT_START = {
    "ErrImagePull",
    "ImagePullBackOff",
    "RunContainerError",
    "CrashLoopBackOff",
    "CreateContainerError",
}


async def test_an_update_and_a_rollback(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    before = {each.name for each in await installation.pods()}
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        setting = {"name": "DATASTORAGE_LOG_LEVEL", "value": "DEBUG"}
        installation.patch_template({"containers": [{"name": "datastorage", "env": [setting]}]})
        await installation.wait_complete()
        updated = {each.name for each in await installation.pods()}
        installation.kubectl("rollout", "undo", DEPLOYMENT)
        await installation.wait_complete()
        after = {each.name for each in await installation.pods()}
    assert not before & updated, "every pod was replaced"
    assert not updated & after, "and again"
    say(f"a rolling update and a rollback: {counted}; {reads}")
    assert (reads.failed, reads.unanswered) == (0, 0), reads


@pytest.mark.parametrize("image", ["kubernaut-datastorage:was-never-built", "not the operator's"])
async def test_an_image_that_does_not_start(
    installation: Installation,
    counting: Counting,
    client_pod: ClientPod,
    read_paths: Sequence[str],
    image: str,
    say: Say,
) -> None:
    """One image can't be had, and the other has no operator in it."""
    if image == "not the operator's":
        image = image_of(installation.cluster, REDIS)
    before = {each.name for each in await installation.ready_pods()}
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        installation.patch_template({kind: [{"name": name, "image": image}] for kind, name in _CONTAINERS})
        try:
            await until(_failing(installation, before), seconds=SETTLE_SECONDS, what="the new pod fails")
            await counted.some_more()
            assert {each.name for each in await installation.ready_pods()} == before
        finally:
            installation.kubectl("rollout", "undo", DEPLOYMENT)
        await installation.wait_complete()
    say(f"the image {image}: {counted}; {reads}")
    assert {each.name for each in await installation.ready_pods()} == before, "the pods went on all the time"
    assert reads.failed == 0, reads


async def test_a_wrong_password_in_the_secret(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    """The pods that run keep the right one; a new pod is not ready until the Secret is mended."""
    right = installation.secret("datastorage-database")["DATASTORAGE_DATABASE_URL"]
    parts = urlsplit(right)
    host = parts.netloc.rpartition("@")[2]
    wrong = parts._replace(netloc=f"{parts.username}:mistyped@{host}").geturl()
    before = await installation.ready_pods()
    names = {each.name for each in before}
    async with client_pod.reads(read_paths) as reads, counting.load() as counted:
        installation.set_secret("datastorage-database", {"DATASTORAGE_DATABASE_URL": wrong})
        try:
            installation.kubectl("rollout", "restart", DEPLOYMENT)
            # The kubelet changes the files of running pods within a minute or two.
            await until(
                lambda: _all_say(installation, before, _STAYS),
                seconds=2 * SETTLE_SECONDS,
                what="the running pods see the new value and say that it can't be used",
            )
            [new] = [each for each in await installation.pods() if each.name not in names]
            await until(
                lambda: _all_say(installation, [new], "password authentication failed for user"),
                seconds=SETTLE_SECONDS,
                what="the new pod says why it is not ready",
            )
            await counted.some_more()
            assert {each.name for each in await installation.ready_pods()} == names
            assert "mistyped" not in "".join(installation.logs(each) for each in (*before, new))
        finally:
            installation.set_secret("datastorage-database", {"DATASTORAGE_DATABASE_URL": right})
        await installation.wait_complete()
    say(f"a wrong password in the Secret: {counted}; {reads}")
    assert (reads.failed, reads.unanswered) == (0, 0), reads


def _failing(installation: Installation, before: set[str]) -> Callable[[], Awaitable[bool]]:
    """Return a condition: there is a new pod, and a container of it can't start or has ended."""

    async def look() -> bool:
        for item in await installation.pods_of():
            if item["metadata"]["name"] in before:
                continue
            status = item["status"]
            every = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
            reasons = {each["state"].get("waiting", {}).get("reason", "") for each in every}
            if any(each["restartCount"] > 0 for each in every) or reasons & _CANT_START:
                return True
        return False

    return look


async def _all_say(installation: Installation, pods: Sequence[Pod], words: str) -> bool:
    for pod in pods:
        if words not in await asyncio.to_thread(installation.logs, pod):
            return False
    return True
