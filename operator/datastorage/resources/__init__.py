"""The custom resources: what they are called, what may stand in them, what the operator writes back.

The pydantic models are the single source of the CRDs (see `crd`). The write path never validates with them:
the API server has done so already, and raw dicts go through untouched.
"""

from datastorage.resources.crd import render_crds, write_crds
from datastorage.resources.kinds import (
    ACTION_TRACE,
    API_VERSION,
    ARCHIVED,
    AUDIT_RECORD,
    ENDED,
    GROUP,
    KINDS,
    LEGAL_HOLD_LABEL,
    VERSION,
    Phase,
    ResourceKind,
    is_final,
)
from datastorage.resources.status import (
    VectorStatus,
    WriteState,
    recording_status,
    rejected_status,
    stored_status,
)

__all__ = [
    "ACTION_TRACE",
    "API_VERSION",
    "ARCHIVED",
    "AUDIT_RECORD",
    "ENDED",
    "GROUP",
    "KINDS",
    "LEGAL_HOLD_LABEL",
    "VERSION",
    "Phase",
    "ResourceKind",
    "VectorStatus",
    "WriteState",
    "is_final",
    "recording_status",
    "rejected_status",
    "render_crds",
    "stored_status",
    "write_crds",
]
