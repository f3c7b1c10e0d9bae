"""The name of a model, as a setting gives it."""

from datastorage.errors import ConfigurationError
from datastorage.variables import PREFIX


def checked_model_name(name: str) -> str:
    """Return the name, which is shown in logs and statuses. Raises ConfigurationError if it can't be."""
    if not name.isprintable():
        raise ConfigurationError(
            f"{PREFIX}EMBEDDING_MODEL has characters that no model name has: remove them"
        )
    return name
