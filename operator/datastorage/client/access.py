"""The server that a command names, and what the command says of the way to it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Where the documentation mounts the token that the kubelet makes for our audience.
POD_TOKEN: Final = Path("/var/run/secrets/datastorage/token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A server, and the way to it."""

    url: str
    token_file: Path | None = None
    account: str | None = None
    """The ServiceAccount to get a token for, as NAMESPACE/NAME."""
    user_token: bool = False
    """Whether the token of the kubeconfig's user is sent even if it is not known to be for the audience."""
    kubeconfig: Path | None = None
    context: str | None = None
    audience: str = "datastorage"
    ca_file: Path | None = None
    tls_server_name: str | None = None
    insecure_http: bool = False
    """Whether plain HTTP may be used to another machine."""
    pod_token: Path = POD_TOKEN
