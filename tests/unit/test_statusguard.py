"""The line in the log about a process that the status guard takes for somebody else."""

import logging

import pytest

from datastorage.errors import RequestRefusedError
from datastorage.pipeline.statusguard import StatusGuardNotice

BY_THE_GUARD = RequestRefusedError(
    "API server (403): ValidatingAdmissionPolicy 'status-guard.datastorage.kubernaut.io' denied request"
)


def test_refusals_by_the_guard_are_explained_once(caplog: pytest.LogCaptureFixture) -> None:
    notice = StatusGuardNotice()
    notice.note(BY_THE_GUARD)
    notice.note(BY_THE_GUARD)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "from the ServiceAccount of the installation; the error names it" in record.getMessage()
    assert "datastorage.kubernaut.io/deletion-guard=disabled" in record.getMessage()
    assert vars(record)["error"] == str(BY_THE_GUARD)


def test_other_refusals_are_not(caplog: pytest.LogCaptureFixture) -> None:
    StatusGuardNotice().note(RequestRefusedError("API server (403): no right to patch"))
    assert caplog.records == []
