"""Finds the identifiers of a question that are in no record: its answer has only similar records then."""

import asyncio
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.identifiers import identifiers
from datastorage.query.interface import Archive
from datastorage.query.questionwords import without_excluded

# Each one costs a separate search by words.
_MAX_CHECKED: Final = 3


async def absent_identifiers(archive: Archive, question: str, chosen: Filter) -> list[str]:
    """Return the identifiers of a question that no record within the filter contains, the longest first.

    Pieces of an identifier are not searched for. Raises TransientError when PostgreSQL can't serve.
    """
    words = without_excluded(question)[0].split()
    # Pairs of words, such as "code 137", are left out, because "last 24" would be among them.
    named = {identifier for identifier, _ in identifiers(words) if " " not in identifier}
    whole = [name for name in named if not any(name in other for other in named - {name})]
    checked = sorted(whole, key=lambda name: (-len(name), name))[:_MAX_CHECKED]
    found = await asyncio.gather(*(_is_in_a_record(archive, identifier, chosen) for identifier in checked))
    return [identifier for identifier, is_found in zip(checked, found, strict=True) if not is_found]


async def _is_in_a_record(archive: Archive, identifier: str, chosen: Filter) -> bool:
    try:
        result = await archive.search(f'"{identifier}"', chosen, mode=SearchMode.TEXT, limit=1, flat=False)
    except InvalidQueryError:  # words that are in every text
        return True
    return bool(result.hits)
