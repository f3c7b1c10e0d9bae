"""Decides which contexts of a kubeconfig the tests may write to."""

from collections.abc import Collection
from pathlib import Path

import yaml

from harness.controlplane.cluster import CONTEXT
from harness.controlplane.errors import ControlPlaneError

# Names that only throwaway clusters have.
ALLOWED_CONTEXTS = frozenset({CONTEXT, "kind-datastorage-e2e", "k3d-datastorage-e2e"})


def choose_context(kubeconfig: Path, context: str | None, extra: Collection[str] = ()) -> str:
    """Return the context to test on: the named one, otherwise the current one of the kubeconfig.

    Raises: ControlPlaneError: the context is neither on the fixed list nor in `extra`, or there is none.
    """
    try:
        content = yaml.safe_load(kubeconfig.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ControlPlaneError(f"cannot read the kubeconfig {kubeconfig}: {error}") from error
    current = content.get("current-context") if isinstance(content, dict) else None
    name = context or current
    if not name:
        raise ControlPlaneError(f"{kubeconfig} has no current context: name one with --context")
    allowed = ALLOWED_CONTEXTS | set(extra)
    if name not in allowed:
        raise ControlPlaneError(
            f"these tests create and delete objects, and {name!r} is not a context they may use "
            f"(those are {', '.join(sorted(allowed))}): "
            f"add --allow-context {name} if that cluster may be changed"
        )
    return str(name)
