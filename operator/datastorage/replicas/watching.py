"""Looks at all replicas again and again, and remembers what the rates need."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from datastorage.errors import TransientError
from datastorage.replicas.history import History, Reading
from datastorage.replicas.look import Look, Seen, look_at
from datastorage.replicas.places import Place, Places
from datastorage.replicas.reading import PageReader


class Watching:
    """The replicas, and what they have said. A replica that is gone is forgotten."""

    def __init__(
        self, places: Places, reader: PageReader, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock`` returns seconds."""
        self._places = places
        self._reader = reader
        self._clock = clock
        self._histories: dict[str, History] = {}

    async def look(self) -> Look:
        """Read all replicas at once. Raises DataStorageError if nobody knows where they are."""
        places = await self._places.find()
        seen = await asyncio.gather(*(self._ask(place) for place in places))
        self._histories = {each.name: each.history for each in seen}
        return look_at(seen, datetime.now(UTC))

    async def _ask(self, place: Place) -> Seen:
        history = self._histories.get(place.name, History())
        if place.url is None:
            return Seen(place.name, history, place.trouble or "it can't be reached")
        try:
            page = await self._reader.read(place.url)
        except TransientError as error:
            await self._places.lost(place.name)
            return Seen(place.name, history, str(error))
        return Seen(place.name, history.with_reading(Reading(self._clock(), page)))
