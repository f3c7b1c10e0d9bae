"""Programs of the harness that do not start say so, with the end of their log, and leave nothing behind."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.controlplane import ComponentError
from harness.controlplane.processes import Component, ProcessGroup
from harness.prometheus import servers
from harness.prometheus.servers import Prometheus


@pytest.fixture
def group() -> Iterator[ProcessGroup]:
    made = ProcessGroup()
    yield made
    made.kill()


def test_a_program_that_is_not_ready_in_time_is_reported_with_its_log(
    group: ProcessGroup, tmp_path: Path
) -> None:
    component = Component("slow", ["sh", "-c", "echo loading; exec sleep 600"], tmp_path / "slow.log")
    component.start(group)
    with pytest.raises(ComponentError, match=r"(?s)slow is not ready after 0 s; the end of .*slow\.log:"):
        component.wait_ready(lambda: False, 0.2)


def test_a_program_that_ends_while_it_starts_is_reported_at_once(group: ProcessGroup, tmp_path: Path) -> None:
    component = Component("broken", ["sh", "-c", "echo no such flag; exit 3"], tmp_path / "broken.log")
    component.start(group)
    with pytest.raises(ComponentError, match=r"(?s)broken ended with status 3; the end of .*no such flag"):
        component.wait_ready(lambda: False, 60.0)


def test_a_prometheus_that_never_answers_is_an_error_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\necho $$ > pid\nexec sleep 600\n")
    program.chmod(0o700)
    monkeypatch.setattr(servers, "_START_SECONDS", 3.0)  # within it, the program begins
    with (
        pytest.raises(ComponentError, match="prometheus is not ready after 3 s"),
        Prometheus(program, tmp_path, "groups: []"),
    ):
        pytest.fail("the block is entered")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
