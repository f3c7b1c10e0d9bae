"""Puts the thesaurus together that the settings ask for."""

from pathlib import Path
from typing import Final

from datastorage.errors import ConfigurationError
from datastorage.files import read_file
from datastorage.settingsgroups import ThesaurusSettings
from datastorage.thesaurus.document import Document, Group, parse
from datastorage.variables import PREFIX

_FIELD: Final = Path(__file__).with_name("field.toml")
_SETTING: Final = f"{PREFIX}THESAURUS_FILE"
_MAX_BYTES: Final = 1024 * 1024


def load_groups(settings: ThesaurusSettings) -> list[Group]:
    """Return the groups of synonyms. Raises ConfigurationError for a file that can't be read, or is wrong."""
    if not settings.enabled:
        return []
    groups = parse(_FIELD.read_text(encoding="utf-8"), _FIELD.name).groups
    if settings.file:
        own = _own(settings.file, list(groups))
        groups = {**(groups if own.builtin else {}), **own.groups}
    return [group for group in groups.values() if group]


def _own(path: str, known: list[str]) -> Document:
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{_SETTING}: {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{_SETTING}: {path} is not text in UTF-8") from error
    return parse(text, f"{_SETTING}: {path}", known)
