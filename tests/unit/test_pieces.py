"""Long work in pieces leaves turns to others."""

import asyncio

from datastorage.resilience.pieces import in_pieces


async def test_others_run_between_pieces() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    large = [item async for item in in_pieces(range(20), lambda _: 1_000_000)]
    assert large == list(range(20))
    assert turns >= 19
    before = turns
    assert [item async for item in in_pieces("abc", len)] == ["a", "b", "c"]
    assert turns == before  # a pause for each small item would only cost time
    other.cancel()
