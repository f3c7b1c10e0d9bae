"""The operator that tests and benchmarks start is the one that users run."""

from pathlib import Path

from harness.operatorprocess import OperatorProcess
from harness.polling import until_blocking


def test_the_packages_of_the_tests_are_not_in_it(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()  # it ends when it has loaded everything
    said = {"DATASTORAGE_EMBEDDING_PROVIDER": "none", "PYTHONPROFILEIMPORTTIME": "1"}
    database = "postgresql://nobody@127.0.0.1:1/none"
    with OperatorProcess(kubeconfig, database, tmp_path, said) as operator:
        until_blocking(lambda: operator.exit_code is not None, what="the operator ends")
        log = operator.log()
    assert "the file is empty" in log
    loaded = {line.rpartition("|")[2].strip() for line in log.splitlines() if "import time:" in line}
    assert "kopf" in loaded
    assert not {"kubernetes.config", "pykube.http", "requests"} & loaded
