"""The environment variables of the program that are no settings of the service, and the prefix of all."""

from collections.abc import Mapping
from typing import Final

PREFIX: Final = "DATASTORAGE_"
# Variables of the commands that ask a server (cli/server.py), by what they mean.
CLIENT_VARIABLES: Final[Mapping[str, str]] = {
    "DATASTORAGE_SERVER": "URL of the server that commands ask in place of a database: `--server`.",
    "DATASTORAGE_TOKEN": "Token for that server.",
    "DATASTORAGE_TOKEN_FILE": "File with the token for that server: `--token-file`.",
    "DATASTORAGE_AS_SERVICEACCOUNT": "ServiceAccount to get a token for: `--as-serviceaccount`.",
    "DATASTORAGE_CA_FILE": "Certificates of the authorities that may vouch for that server: `--ca-file`.",
}
