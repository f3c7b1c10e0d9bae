"""Recognizes the variables that Kubernetes adds to the pods of a namespace for its Services."""

import re
from typing import Final

# For each Service whose name begins with "datastorage": its address, the numbers of its ports, and the ports
# again in the form of Docker's links.
_SERVICE_LINK: Final = re.compile(
    r"DATASTORAGE(_.*)?_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
# One of them may have the name of a setting: a Service datastorage-api gives DATASTORAGE_API_PORT. Its value
# is such a URL, while the setting's is a number.
_PORT_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")


def is_service_link(name: str, value: str) -> bool:
    """Return whether a variable, by its name in upper case and its value, comes from a Service."""
    if name.endswith("_PORT") and _PORT_URL.fullmatch(value):
        return True
    return _SERVICE_LINK.fullmatch(name) is not None
