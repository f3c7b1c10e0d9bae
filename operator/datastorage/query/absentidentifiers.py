"""The identifiers of a question that are in no record: an answer to it holds merely similar records."""

import asyncio
from typing import Final

from datastorage.errors import InvalidQueryError
from datastorage.query.filters import Filter, SearchMode
from datastorage.query.identifiers import identifiers
from datastorage.query.questions import ArchiveQueries
from datastorage.query.questionwords import without_excluded

# Each costs a search by words of its own.
_MAX_CHECKED: Final = 3


async def absent_identifiers(archive: ArchiveQueries, question: str, chosen: Filter) -> list[str]:
    """Return the identifiers of a question, the longest first, that no record within the filter has.

    Pieces of an identifier are not looked for. Raises TransientError when PostgreSQL can't serve.
    """
    words = without_excluded(question)[0].split()
    # Two words, such as "code 137", are left out: "last 24" would be among them.
    named = {identifier for identifier, _ in identifiers(words) if " " not in identifier}
    whole = [name for name in named if not any(name in other for other in named - {name})]
    checked = sorted(whole, key=lambda name: (-len(name), name))[:_MAX_CHECKED]
    found = await asyncio.gather(*(_is_in_a_record(archive, identifier, chosen) for identifier in checked))
    return [identifier for identifier, is_found in zip(checked, found, strict=True) if not is_found]


async def _is_in_a_record(archive: ArchiveQueries, identifier: str, chosen: Filter) -> bool:
    try:
        result = await archive.search(f'"{identifier}"', chosen, mode=SearchMode.TEXT, limit=1)
    except InvalidQueryError:  # words that are in every text
        return True
    return bool(result.hits)
