"""A configuration of Prometheus from the shipped ServiceMonitor, as the Prometheus Operator makes one of it.

So whoever changes a port, a path or a label of the ServiceMonitor changes what the tests read.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_MONITOR_FIELDS: Final = {"selector", "endpoints"}
_ENDPOINT_FIELDS: Final = {"port", "path", "interval", "scrapeTimeout"}
# In place of the ServiceMonitor's own times, so that tests wait for less.
_OFTEN: Final = "1s"
_SERVICE_LABEL: Final = "__meta_kubernetes_service_label_"
_NAMED: Final = {
    "namespace": "__meta_kubernetes_namespace",
    "service": "__meta_kubernetes_service_name",
    "pod": "__meta_kubernetes_pod_name",
    "container": "__meta_kubernetes_pod_container_name",
    "job": "__meta_kubernetes_service_name",
    "endpoint": "__meta_kubernetes_endpointslice_port_name",
}
"""The labels that the Prometheus Operator gives to every series, and where each comes from."""

RIGHTS: Final = (
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["services", "pods"], "verbs": ["list", "watch"]},
)
"""What Prometheus has to be allowed in the namespace of the replicas, to find them."""


def configuration(scrapes: Sequence[Mapping[str, Any]], rules_file: str) -> dict[str, Any]:
    """Return a configuration with ways to read metrics, which evaluates the rules of a file."""
    times = {"scrape_interval": _OFTEN, "scrape_timeout": _OFTEN, "evaluation_interval": _OFTEN}
    return {"global": times, "rule_files": [rules_file], "scrape_configs": list(scrapes)}


def scrapes_of(monitor: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return how Prometheus reads what a ServiceMonitor names: a job for each endpoint."""
    spec = monitor["spec"]
    assert spec.keys() == _MONITOR_FIELDS, "a field that is not turned into configuration"
    selector = spec["selector"]
    assert selector.keys() == {"matchLabels"}
    namespace = monitor["metadata"]["namespace"]
    return [
        _scrape(f"serviceMonitor/{namespace}/{number}", namespace, selector["matchLabels"], endpoint)
        for number, endpoint in enumerate(spec["endpoints"])
    ]


def _scrape(
    name: str, namespace: str, labels: Mapping[str, str], endpoint: Mapping[str, str]
) -> dict[str, Any]:
    assert endpoint.keys() <= _ENDPOINT_FIELDS, "a field that is not turned into configuration"
    kept = {_SERVICE_LABEL + _identifier(label): value for label, value in labels.items()}
    kept["__meta_kubernetes_endpointslice_port_name"] = endpoint["port"]
    return {
        "job_name": name,
        "metrics_path": endpoint["path"],
        # A ServiceMonitor chooses Services of its own namespace, and the endpoints of these.
        "kubernetes_sd_configs": [{"role": "endpointslice", "namespaces": {"names": [namespace]}}],
        "relabel_configs": [
            *(
                {"action": "keep", "source_labels": [source], "regex": value.replace(".", r"\.")}
                for source, value in kept.items()
            ),
            *({"source_labels": [source], "target_label": label} for label, source in _NAMED.items()),
        ],
    }


def _identifier(label: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in label)
