"""A Prometheus in a pod, which finds the replicas in the cluster and reads their metrics."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from e2e.installed.portforward import PortForward
from harness.controlplane import Cluster
from harness.prometheus.client import PrometheusClient
from harness.prometheus.image import DATA

RULES_FILE: Final = "rules.yaml"

_NAME: Final = "prometheus"
_PORT: Final = 9090
_SETTINGS: Final = "/etc/prometheus"
_CONFIGURATION_FILE: Final = "prometheus.json"
_READY_SECONDS: Final = 120.0


class PrometheusPod:
    """A pod under a ServiceAccount of its own."""

    account: Final = _NAME
    """The name of the ServiceAccount; it needs the rights in ``scraping.RIGHTS``."""

    def __init__(self, cluster: Cluster, namespace: str, *, image: str, node: str) -> None:
        """``node`` has the image."""
        self.namespace = namespace
        self._cluster = cluster
        self._image = image
        self._node = node

    def start(self, configuration: Mapping[str, Any], rules: str) -> None:
        """Make the pod with a configuration and the text of a rules file, and wait until it is ready."""
        files = {_CONFIGURATION_FILE: json.dumps(configuration), RULES_FILE: rules}
        common = {"apiVersion": "v1", "metadata": {"name": _NAME, "namespace": self.namespace}}
        made = [
            {**common, "kind": "ServiceAccount"},
            {**common, "kind": "ConfigMap", "data": files},
            {**common, "kind": "Pod", "spec": self._spec()},
        ]
        documents = {"apiVersion": "v1", "kind": "List", "items": made}
        self._cluster.kubectl("create", "-f", "-", input=json.dumps(documents))
        self._cluster.kubectl(
            *("wait", "-n", self.namespace, f"pod/{_NAME}", "--for=condition=Ready"),
            f"--timeout={_READY_SECONDS:.0f}s",
            timeout=_READY_SECONDS + 30,
        )

    @contextmanager
    def client(self) -> Iterator[PrometheusClient]:
        """Provide a way to ask it, from this machine."""
        with PortForward(self._cluster, self.namespace, f"pod/{_NAME}", _PORT) as way:
            yield PrometheusClient(f"http://127.0.0.1:{way.port}")

    def _spec(self) -> dict[str, Any]:
        container = {
            "name": _NAME,
            "image": self._image,
            "imagePullPolicy": "Never",
            "args": [
                f"--config.file={_SETTINGS}/{_CONFIGURATION_FILE}",
                f"--storage.tsdb.path={DATA}",
                "--log.level=warn",
            ],
            "readinessProbe": {"httpGet": {"path": "/-/ready", "port": _PORT}, "periodSeconds": 1},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "settings", "mountPath": _SETTINGS, "readOnly": True},
                {"name": "data", "mountPath": DATA},
            ],
        }
        return {
            "nodeName": self._node,
            "serviceAccountName": self.account,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "settings", "configMap": {"name": _NAME}},
                {"name": "data", "emptyDir": {}},
            ],
        }
