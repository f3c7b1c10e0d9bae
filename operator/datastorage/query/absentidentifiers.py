"""Finds the identifiers of a question that are in no record: its answer has only similar records then."""

import asyncio
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from datastorage.errors import DataStorageError
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.identifiers import identifiers
from datastorage.query.interface import Archive
from datastorage.query.questionwords import without_excluded
from datastorage.query.searchresult import SearchHit
from datastorage.records.words import plain

# Each one costs a separate search by words, and so does each part of one that is not found.
_MAX_CHECKED: Final = 3
_MAX_PARTS: Final = 4
# What is searched has neither the times of records nor all of their numbers: that none has "2026-03-14",
# "12:30" or "3.5" would say nothing. "e.g." is no identifier either.
_OF_NO_RECORD: Final = re.compile(
    r"\d{4}-\d\d(?:-\d\d(?:t\d\d(?::?\d\d)*.*)?)?|\d\d?:\d\d(?::\d\d(?:\.\d+)?)?|\d+[.,/]\d+|(?:[a-z]\.)+[a-z]",
    re.IGNORECASE | re.DOTALL,
)


async def absent_identifiers(
    archive: Archive, question: str, chosen: Filter, hits: Sequence[SearchHit] = ()
) -> list[str]:
    """Return the longest identifiers of a question that find no record within the filter, three at most.

    Records are not found by their own names and uids; those of the ``hits`` are left out. Of
    "worker-3,worker-4" it is only "worker-4" if records have the other part. An identifier that can't be
    looked for now is left out: the answer that this is added to must not be lost. Raises the errors of
    ``without_excluded``.
    """
    words = without_excluded(question)[0].split()
    # Pairs of words, such as "code 137", are left out, because "last 24" would be among them.
    named = {
        identifier
        for identifier, _ in identifiers(words)
        if " " not in identifier and not _OF_NO_RECORD.fullmatch(identifier)
    }
    whole = named.difference(*map(_parts, named))
    records = [hit.record for hit in hits]
    own = {of_it for each in records for of_it in (each.uid, each.name, f"{each.namespace}/{each.name}")}
    absent = await asyncio.gather(
        *(
            _absent(archive, name, _longest_first(_parts(name) & named), chosen, own)
            for name in _longest_first(whole)[:_MAX_CHECKED]
        )
    )
    return _longest_first({name for names in absent for name in names})[:_MAX_CHECKED]


async def _absent(
    archive: Archive, name: str, parts: list[str], chosen: Filter, own: Collection[str]
) -> list[str]:
    """Return an identifier if no record has it or a part of it; otherwise the parts that no record has.

    Records have ``own``, in small letters.
    """

    async def is_known(each: str) -> bool:
        return each.lower() in own or await _is_in_a_record(archive, each, chosen)

    if await is_known(name):
        return []
    checked = parts[:_MAX_PARTS]
    found = {part for part in checked if await is_known(part)}
    # Of an identifier with more parts than are looked for, one of the others may be in a record.
    candidates = checked if len(parts) > _MAX_PARTS else [name, *checked]
    missing = [each for each in candidates if each not in found and not found & _parts(each)]
    return [each for each in missing if not any(each in _parts(other) for other in missing)]


def _parts(name: str) -> set[str]:
    """Return what is an identifier by itself within another one."""
    return {part for part, _ in identifiers([name])} - {name}


def _longest_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (-len(name), name))


async def _is_in_a_record(archive: Archive, identifier: str, chosen: Filter) -> bool:
    """Return whether a record contains an identifier, and True if that is not known."""
    try:
        # A quotation mark within the identifier would end the quotation.
        result = await archive.search(
            f'"{plain(identifier)}"', chosen, mode=SearchMode.TEXT, limit=1, flat=False
        )
    except DataStorageError:  # for instance, its words are in every text, or the archive is away
        return True
    return bool(result.hits)
