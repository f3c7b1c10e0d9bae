"""A schema of an earlier version, for tests of the migrations from it."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from alembic import command

from datastorage.storage import migrate as migrate_module


@contextmanager
def migrating_to(version: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make migrations end at an earlier version, like those of an earlier program."""
    upgrade = command.upgrade

    async def nothing(*_: object) -> None:
        """Do nothing: the rights and checks are those of the newest version."""

    with monkeypatch.context() as patched:
        patched.setattr(command, "upgrade", lambda config, _: upgrade(config, version))
        patched.setattr(migrate_module, "_finish", nothing)
        yield
