"""Traces of records and requests, as spans of OpenTelemetry, for a collector that the environment names.

``interface.py`` has what the other rooms call, and an implementation that does nothing; ``identity.py`` gives
each record its trace. ``opening.py`` looks at the environment. Only if that names a collector, it imports the
modules that load OpenTelemetry's SDK. ``sdk.py`` makes the spans, by way of ``commits.py`` for those of a
commit, ``recorder.py`` for which are recorded, ``parents.py`` and ``attributes.py``; ``exporting.py`` sends
them.

A span says which object it is about, how long a step took, and the name of the class of an error. It never
holds the text of an error, a header, a URL with its query or anything else of a record: a collector may be
less guarded than the archive.
"""

from datastorage.tracing.interface import (
    NO_COMMIT,
    NO_TRACES,
    CommitTrace,
    Exemplar,
    RequestTrace,
    Step,
    TakenIn,
    Traces,
    current_exemplar,
    current_request,
    serving,
)
from datastorage.tracing.opening import open_traces

__all__ = [
    "NO_COMMIT",
    "NO_TRACES",
    "CommitTrace",
    "Exemplar",
    "RequestTrace",
    "Step",
    "TakenIn",
    "Traces",
    "current_exemplar",
    "current_request",
    "open_traces",
    "serving",
]
