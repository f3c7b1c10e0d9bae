"""The table of all settings, as `datastorage settings` prints it and the documentation shows it."""

from pydantic import SecretStr

from datastorage.settings import (
    DEFAULT_EMBEDDED_DIR,
    DEFAULT_SECRETS_DIR,
    EMBEDDED_DIR_VARIABLE,
    SECRETS_DIR_VARIABLE,
    setting_fields,
    setting_names,
)
from datastorage.variables import CLIENT_VARIABLES


def settings_table() -> str:
    """Return all settings as a Markdown table."""
    lines = ["| Setting | Default | Meaning |", "| --- | --- | --- |"]
    for name, (_, _, field) in zip(setting_names(), setting_fields(), strict=True):
        default = field.get_default()
        cell = "" if isinstance(default, SecretStr) or default in {None, (), ""} else f"`{default}`"
        lines.append(f"| `{name}` | {cell} | {field.description} |")
    lines += [
        f"| `{SECRETS_DIR_VARIABLE}` | `{DEFAULT_SECRETS_DIR}` | Directory of files named like settings. |",
        f"| `{EMBEDDED_DIR_VARIABLE}` | `{DEFAULT_EMBEDDED_DIR}` | Where `run --embedded` keeps its data. |",
        *(f"| `{name}` | | {meaning} |" for name, meaning in CLIENT_VARIABLES.items()),
    ]
    return "\n".join(lines) + "\n"
