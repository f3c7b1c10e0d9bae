"""Explains refusals by the status guard: this process is not the identity that may write statuses."""

import logging
from typing import Final

from datastorage.errors import RequestRefusedError
from datastorage.resources.kinds import GROUP

_log = logging.getLogger(__name__)

# The API server names the policy that has refused a request (manifests/base/status-guard.yaml).
_GUARD: Final = f"status-guard.{GROUP}"


class StatusGuardNotice:
    """Logs once for the whole process what is wrong and what to do, since each status is refused alike."""

    def __init__(self) -> None:
        self._is_logged = False

    def note(self, refusal: RequestRefusedError) -> None:
        """Take note of a status write that the API server has refused, for whatever reason."""
        if self._is_logged or _GUARD not in str(refusal):
            return
        self._is_logged = True
        _log.error(
            "The status guard of the cluster refuses the statuses that this process writes: records are "
            "stored, but their objects get no phase and stay in the cluster. The guard accepts statuses only "
            "from the ServiceAccount of the installation; the error names it, and the identity that this "
            "process has. Run the operator under that ServiceAccount. Or, to try it out, switch the guards "
            "off in each namespace that has records: "
            "kubectl label namespace NAMESPACE %s/deletion-guard=disabled",
            GROUP,
            extra={"error": str(refusal)},
        )
