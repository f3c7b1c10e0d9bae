"""The memory of the pods, as the kernel counts it: at rest, and under load.

This test comes first, after the installation. On a cluster that was used before, the figures include what its
pods have done since they started.
"""

import json
from collections.abc import Sequence

from e2e.installed.clientpod import ClientPod
from e2e.installed.conftest import Say
from e2e.installed.counted import SETTLE_SECONDS, Counting
from e2e.installed.installation import Installation
from harness.polling import until

REST_MIB = 150.0
PEAK_MIB = 400.0

# The kernel also counts pages of files, which it takes back when memory is short. "now" leaves them out, and
# the peak has them. The first paths are those of cgroup v2, the others those of v1.
_MEASURE = """
import json, pathlib
folder = pathlib.Path("/sys/fs/cgroup")
names = ("memory.current", "memory.peak", "inactive_file")
if not (folder / "memory.current").exists():
    folder = folder / "memory"
    names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "total_inactive_file")
now, peak = (int((folder / name).read_text()) for name in names[:2])
stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
print(json.dumps({"now": now - int(stat[names[2]]), "peak": peak}))
"""
_MIB = 2**20


async def test_the_pods_need_little_memory(
    installation: Installation, counting: Counting, client_pod: ClientPod, read_paths: Sequence[str], say: Say
) -> None:
    rest = await _measured(installation, "now")
    searches = ("/query/semantic?q=an+event+was+seen", "/query/records?pageSize=100")
    async with client_pod.reads([*read_paths, *searches]), counting.load(per_second=100) as counted:

        async def many() -> bool:
            return len(counted.load.accepted) >= 500

        await until(many, seconds=SETTLE_SECONDS, what="many records are created")
    peak, after = await _measured(installation, "peak"), await _measured(installation, "now")
    for what, found in (("at rest", rest), ("at most", peak), ("after a load", after)):
        say(f"memory {what}: {', '.join(f'{each:.0f}' for each in found)} MiB")
    assert max(rest) <= REST_MIB
    assert max(peak) <= PEAK_MIB


async def _measured(installation: Installation, field: str) -> list[float]:
    """Return the mebibytes of each pod."""
    pods = await installation.ready_pods()
    return sorted(json.loads(installation.python(each, _MEASURE))[field] / _MIB for each in pods)
