"""Kopf's handlers: each event's object is offered to the intake. Nothing else happens here.

Only ``on.event`` is used: the other decorators keep their state in the object and cost up to five more writes
each (docs/decisions). Kopf never repeats an ``on.event`` handler; if one fails, the sweep brings the object
back.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import kopf

from datastorage.pipeline.objectintake import ObjectIntake
from datastorage.pipeline.sweep import UNSTORED_SELECTOR
from datastorage.resources.kinds import GROUP, VERSION, ResourceKind
from datastorage.resources.selection import Selection

_EventHandler = Callable[..., Awaitable[None]]

# Kopf keeps a worker per object for this long after its last event.
_IDLE_SECONDS: Final = 0.05
# Pauses after an error that kube/watchretry.py does not handle: a connection breaks within an answer.
_BACKOFFS_SECONDS: Final = (0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 2.0)


def build_registry(kind: ResourceKind, objects: ObjectIntake, selection: Selection) -> kopf.OperatorRegistry:
    """Return Kopf's registry with one event handler, which offers each selected object to the intake."""
    registry = kopf.OperatorRegistry()
    kopf.on.event(GROUP, VERSION, kind.plural, registry=registry)(_observer(kind, objects, selection))
    return registry


def _observer(kind: ResourceKind, objects: ObjectIntake, selection: Selection) -> _EventHandler:
    async def observe(event: kopf.RawEvent, **_: Any) -> None:
        body: Any = event["object"]
        if selection.has(body):
            if event["type"] == "DELETED":
                objects.offer_last_copy(kind, body)
            else:
                objects.offer(kind, body)
        _free(body)

    return observe


def _free(body: dict[str, Any]) -> None:
    """Take everything large out of an object that was offered.

    Kopf keeps the event until it finds that no other follows for the same object. While large objects
    arrive, that takes seconds, in which ten more are read, of up to 34 MiB each.
    """
    body.pop("spec", None)
    body["metadata"].pop("managedFields", None)


def kopf_settings(kind: ResourceKind) -> kopf.OperatorSettings:
    """Return the settings that make Kopf a watch of one kind and nothing more."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Kopf would need rights on definitions and namespaces to see them come and go (see kube/watchretry.py).
    settings.scanning.disabled = True
    settings.peering.standalone = True
    # Kopf must not kill the process: how long a stop may take is decided in runtime/run.py.
    settings.process.ultimate_exiting_timeout = None
    settings.queueing.idle_timeout = _IDLE_SECONDS
    # Objects that are there at the start come one by one: a page of large ones would not fit into memory.
    settings.watching.initial_streaming = True
    # Requests wait for their answer in kube/watchretry.py, however long a definition is missing.
    settings.networking.request_timeout = None
    settings.networking.error_backoffs = _BACKOFFS_SECONDS
    # Kopf would patch an object that has Kopf's default finalizer, to remove it, and has no right to do so.
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.persistence.diffbase_storage = _NoDiffBase()
    # Event handlers have no progress to keep.
    settings.persistence.progress_storage = kopf.MultiProgressStorage([])
    settings.watching.field_selectors[kind.plural] = UNSTORED_SELECTOR
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps Kopf from copying and comparing every object: event handlers do not need the changes.

    The old state is the same object as the new one, so that there is nothing to compare.
    """

    def __init__(self) -> None:
        self._essence = kopf.BodyEssence({})

    def build(self, **_: Any) -> kopf.BodyEssence:
        return self._essence

    def fetch(self, **_: Any) -> kopf.BodyEssence:
        return self._essence

    def store(self, **_: Any) -> None:
        return None
