"""The Python code of the guide for controllers, run as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.workbench import Workbench
from harness.polling import DEADLINE_SECONDS, until

_GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "controllers.md"
_BY_HTTP, _AS_RESOURCE = re.findall(r"^```python\n(.*?)^```$", _GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def _printed_by(program: Path, variables: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
        env={**os.environ, **variables},
    ).stdout


@pytest.mark.parametrize("code", [_BY_HTTP, _AS_RESOURCE], ids=["http", "resource"])
async def test_a_step_is_recorded_once(workbench: Workbench, tmp_path: Path, code: str) -> None:
    namespace, kubectl = workbench.namespace, workbench.cluster.kubectl
    url = workbench.start_operator().api_url
    kubectl("create", "serviceaccount", "recorder", "-n", namespace)
    writes = ("create", "rolebinding", "recorder-writes", "-n", namespace, "--clusterrole=datastorage-writer")
    kubectl(*writes, f"--serviceaccount={namespace}:recorder")
    token = kubectl("create", "token", "recorder", "-n", namespace, "--audience", "datastorage").stdout
    (tmp_path / "token").write_text(token)
    (tmp_path / "code.py").write_text(code.replace('"shop"', f'"{namespace}"'))
    user = workbench.cluster.service_account_kubeconfig(namespace, "recorder")
    variables = {"ARCHIVE_URL": url, "TOKEN_FILE": str(tmp_path / "token"), "KUBECONFIG": str(user)}
    printed = {_printed_by(tmp_path / "code.py", variables) for _ in range(2)}
    assert len(printed) == 1, "the second run gets the answer of the first"

    async def stored() -> bool:
        return workbench.datastorage("list", "-n", namespace).count("Scaled cart from 2 to 4 replicas") == 1

    await until(stored, what="the step is in the archive, once")
