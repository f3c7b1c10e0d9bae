"""The values of the chart, in one list, which every file about values is made from.

A default that a manifest has is taken from the manifest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from datastorage.settings import Settings, setting_fields, setting_names
from harness.chart.sources import Object, Sources
from harness.rules.rendering import RUNBOOK

Schema = dict[str, Any]

_STRING: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"}
_NAMESPACE: Final[Schema] = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
_TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
_OBJECTS: Final[Schema] = {"type": "array", "items": {"type": "object"}}
_SUBJECTS: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["kind", "name"],
        "additionalProperties": False,
        "properties": {
            "kind": {"enum": ["User", "Group", "ServiceAccount"]},
            "name": {"type": "string", "minLength": 1},
            "namespace": _NAMESPACE,
        },
    },
}
# Settings that the chart sets, because more than the setting depends on them, and how to have them set.
MANAGED: Final = {
    "DATASTORAGE_NAMESPACES": "set namespaces instead",
    "DATASTORAGE_TLS_DIR": "set tls.enabled instead",
    "DATASTORAGE_API_FALLBACK": "set apiFallback.enabled instead",
    "DATASTORAGE_RECORDED_BY_POLICY": "set recordedBy.enabled instead",
    "DATASTORAGE_LEASE_NAMESPACE": "it is always the namespace of the release",
}


@dataclass(frozen=True)
class Value:
    """One value: its place, default and meaning, and its schema unless the default's type says enough."""

    path: str
    default: Any
    meaning: str
    schema: Schema = field(default_factory=dict)

    def full_schema(self) -> Schema:
        """Return the JSON schema of the value."""
        return {"description": self.meaning, **(self.schema or _schema_of(self.default))}


def secret_settings() -> list[str]:
    """Return the names of the settings that are secrets; the chart takes them from Secrets alone."""
    return [name for name, schema in _settings_schemas() if schema.get("writeOnly")]


def chart_values(sources: Sources) -> list[Value]:
    """Return all values of the chart, in the order of values.yaml."""
    return [
        *_workload(sources.found("base/deployment.yaml", "Deployment", "datastorage"), sources),
        *_settings(sources),
        *_secrets(),
        *_options(sources),
        *_network(sources),
    ]


def _workload(deployment: Object, sources: Sources) -> list[Value]:
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    budget = sources.found("base/pdb.yaml", "PodDisruptionBudget", "datastorage")["spec"]
    return [
        Value("image.repository", container["image"], "The image, with its registry, without tag."),
        Value("image.tag", "", "The tag. Empty: the version of the chart."),
        Value(
            "image.digest",
            "",
            "`sha256:…`: pins the image, whatever its tag says.",
            {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        ),
        Value(
            "image.pullPolicy",
            container["imagePullPolicy"],
            "When the kubelet pulls the image.",
            {"enum": ["Always", "IfNotPresent", "Never"]},
        ),
        Value("imagePullSecrets", [], "Secrets for the registry: `[{name: registry}]`.", _OBJECTS),
        Value("replicas", deployment["spec"]["replicas"], "Number of pods. Each answers the REST API."),
        Value(
            "resources", container["resources"], "Requests and limits of both containers.", {"type": "object"}
        ),
        Value("nodeSelector", {}, "Labels of the nodes that the pods may run on.", _TEXTS),
        Value("tolerations", [], "Taints that the pods tolerate.", _OBJECTS),
        Value(
            "affinity",
            pod["affinity"],
            "Affinity of the pods. The default prefers to spread them over zones; `null` removes it.",
            {"type": "object"},
        ),
        Value(
            "topologySpreadConstraints",
            pod["topologySpreadConstraints"],
            "How the pods spread. The default keeps the pods of one release from all being on one node.",
            _OBJECTS,
        ),
        Value("priorityClass.name", "", "Priority class of the pods.", {"type": "string"}),
        _switch(
            "priorityClass.create",
            "Make the class `datastorage` and use it. Without the operator, records collect in etcd.",
        ),
        Value(
            "terminationGracePeriodSeconds",
            pod["terminationGracePeriodSeconds"],
            "Seconds that a stop may take: at least `DATASTORAGE_SHUTDOWN_SECONDS` (20) and 30 more.",
        ),
        Value("podAnnotations", {}, "Further annotations of the pods.", _TEXTS),
        Value("podLabels", {}, "Further labels of the pods.", _TEXTS),
        Value("commonLabels", {}, "Further labels of every object.", _TEXTS),
        Value(
            "extraEnv",
            [],
            "Further environment variables of both containers, such as `HTTPS_PROXY`.",
            _OBJECTS,
        ),
        Value(
            "extraVolumes",
            [],
            "Further volumes, such as the certificate of the authority that signed PostgreSQL's.",
            _OBJECTS,
        ),
        Value("extraVolumeMounts", [], "Where both containers mount them.", _OBJECTS),
        _switch(
            "serviceAccount.create",
            "Make the ServiceAccount `datastorage`. `false`: it exists already.",
            on=True,
        ),
        Value("serviceAccount.annotations", {}, "Annotations of the ServiceAccount.", _TEXTS),
        Value("service.annotations", {}, "Annotations of the Service.", _TEXTS),
        _switch("podDisruptionBudget.enabled", "Whether a drain has to keep to the budget.", on=True),
        Value(
            "podDisruptionBudget.maxUnavailable",
            budget["maxUnavailable"],
            "Pods that a drain may take at once.",
            {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+%$"}]},
        ),
    ]


def _settings(sources: Sources) -> list[Value]:
    given = {name: yaml.safe_load(text) for name, text in sources.settings("base").items()}
    known = dict(_settings_schemas())
    settings = {name: value for name, value in given.items() if name in known and name not in MANAGED}
    schemas = {
        # The templates refuse these two sorts with a text that says where they belong.
        name: {} if name in MANAGED or schema.get("writeOnly") else schema
        for name, schema in known.items()
    }
    return [
        Value(
            "namespaces",
            [],
            "Namespaces whose records are archived. Empty: all. Otherwise the operator has rights to records "
            "in these alone; they have to exist.",
            {"type": "array", "items": _NAMESPACE, "uniqueItems": True},
        ),
        Value(
            "settings",
            settings,
            "Settings that are not secret, by the names in docs/reference/configuration.md.",
            {"type": "object", "additionalProperties": False, "properties": schemas},
        ),
    ]


def _secrets() -> list[Value]:
    return [
        Value(
            "database.secretName",
            "datastorage-database",
            "Secret with `DATASTORAGE_DATABASE_URL` and `DATASTORAGE_DATABASE_OWNER_URL`.",
            _NAME,
        ),
        _switch(
            "database.create",
            "Make that Secret from the two URLs below. For trials: Helm then keeps them in its release, too.",
        ),
        Value("database.url", "", "PostgreSQL URL of the service role."),
        Value("database.ownerUrl", "", "PostgreSQL URL of the owner of the schema."),
        Value(
            "vectors.secretName",
            "datastorage-vectors",
            "Secret with the URLs of Redis, a standby and a server for vectors, and the key of an embedding "
            "service. All are optional, and so is the Secret.",
            _NAME,
        ),
    ]


def _options(sources: Sources) -> list[Value]:
    certificate = sources.objects("components/tls/certificate/certificate.yaml")[0]["spec"]
    monitor = sources.objects("components/servicemonitor/servicemonitor.yaml")[0]["spec"]["endpoints"][0]
    bindings = sources.objects("components/read-access/bindings.yaml")
    exporters = {each["name"] for each in bindings[1]["subjects"]}
    readers = [each for each in bindings[0]["subjects"] if each["name"] not in exporters]
    duration: Schema = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
    return [
        _switch("tls.enabled", "TLS for the REST API."),
        Value("tls.secretName", certificate["secretName"], "Secret of the type `kubernetes.io/tls`.", _NAME),
        _switch("tls.certManager.enabled", "Let cert-manager make and renew that Secret."),
        Value(
            "tls.certManager.issuerRef.group", certificate["issuerRef"]["group"], "API group of the issuer."
        ),
        Value("tls.certManager.issuerRef.kind", certificate["issuerRef"]["kind"], "Kind of the issuer."),
        Value("tls.certManager.issuerRef.name", "", "Name of the issuer. Needed with cert-manager."),
        Value("tls.certManager.duration", certificate["duration"], "Life of a certificate.", duration),
        Value(
            "tls.certManager.renewBefore", certificate["renewBefore"], "Renewed this long before.", duration
        ),
        _switch("apiFallback.enabled", "Create custom resources for requests while PostgreSQL is away."),
        _switch(
            "recordedBy.enabled",
            "Let the API server note who recorded each object. Needs Kubernetes ≥ 1.36.",
        ),
        _switch(
            "guards.install",
            "Install the admission policies that keep unstored records from being deleted. `false`: somebody "
            "else installs them. An upgrade or uninstallation never removes them.",
            on=True,
        ),
        _switch("guards.protected", "Keep the guards themselves from being deleted, by a finalizer."),
        _switch("readAccess.enabled", "Bind the roles for reading and exporting the archive."),
        Value("readAccess.readers", _subjects(readers), "Subjects that may read all records.", _SUBJECTS),
        Value(
            "readAccess.exporters",
            _subjects(bindings[1]["subjects"]),
            "Subjects that may read and export them.",
            _SUBJECTS,
        ),
        _switch("serviceMonitor.enabled", "A ServiceMonitor for the Prometheus Operator."),
        Value("serviceMonitor.labels", {}, "Labels by which your Prometheus chooses it.", _TEXTS),
        Value("serviceMonitor.interval", monitor["interval"], "Time between two readings.", duration),
        Value("serviceMonitor.scrapeTimeout", monitor["scrapeTimeout"], "Time that one may take.", duration),
        _switch("prometheusRule.enabled", "Alerts, as a PrometheusRule for the Prometheus Operator."),
        Value("prometheusRule.labels", {}, "Labels by which your Prometheus chooses it.", _TEXTS),
        Value(
            "prometheusRule.selector",
            "",
            "Selector, without braces, of the series that the rules are about. Empty: those of the "
            'ServiceMonitor, `namespace="NAMESPACE",job="datastorage"` with the namespace of the release.',
        ),
        Value(
            "prometheusRule.runbookUrl",
            RUNBOOK,
            "Where your readers find docs/operations/runbook.md. Each alert has a link to its section.",
        ),
        _switch("grafanaDashboard.enabled", "The dashboard for Grafana, as a ConfigMap for its sidecar."),
        Value(
            "grafanaDashboard.labels",
            dashboard_labels(sources),
            "Labels by which the sidecar of your Grafana finds it.",
            _TEXTS,
        ),
    ]


def dashboard_labels(sources: Sources) -> dict[str, str]:
    """Return the labels by which Grafana finds the dashboard."""
    [generator] = sources.kustomization("monitoring/dashboard")["configMapGenerator"]
    found: dict[str, str] = generator["options"]["labels"]
    return {name: value for name, value in found.items() if name.startswith("grafana_")}


# The values of each NetworkPolicy, by the policy's name without its first word, and what they are about.
POLICIES: Final = {
    "datastorage-from-api-clients": ("apiClients", "callers of the REST API"),
    "datastorage-from-metrics-clients": ("metricsClients", "readers of the metrics"),
    "datastorage-to-dns": ("dns", "the name servers"),
    "datastorage-to-api-server": ("apiServer", "the API server"),
    "datastorage-to-postgresql": ("postgresql", "PostgreSQL"),
    "datastorage-to-redis": ("redis", "Redis"),
    "datastorage-to-embedder": ("embedder", "the embedding service"),
}
OPTIONAL_POLICIES: Final = {"redis": True, "embedder": False}


def network_policies(sources: Sources) -> Iterator[tuple[str, str, Object]]:
    """Yield the path of the source, the value and the object of each NetworkPolicy that has values."""
    for path in ("ingress", "egress", "embedder/egress"):
        source = f"components/networkpolicy/{path}.yaml"
        for policy in sources.objects(source):
            yield source, POLICIES[policy["metadata"]["name"]][0], policy


def _network(sources: Sources) -> list[Value]:
    about = dict(POLICIES.values())
    values = [
        _switch(
            "networkPolicy.enabled",
            "NetworkPolicies: the pods get and send nothing but what the values below allow.",
        )
    ]
    for _, name, policy in network_policies(sources):
        spec, path = policy["spec"], f"networkPolicy.{name}"
        if name in OPTIONAL_POLICIES:
            values.append(
                Value(f"{path}.enabled", OPTIONAL_POLICIES[name], f"Whether {about[name]} is used.")
            )
        if "ingress" in spec:
            values.append(Value(f"{path}.from", spec["ingress"][0]["from"], f"The {about[name]}.", _OBJECTS))
            continue
        values.append(Value(f"{path}.to", spec["egress"][0]["to"], f"Addresses of {about[name]}.", _OBJECTS))
        values.append(
            Value(f"{path}.ports", spec["egress"][0]["ports"], f"Ports of {about[name]}.", _OBJECTS)
        )
    return values


def _switch(path: str, meaning: str, *, on: bool = False) -> Value:
    return Value(path, on, meaning)


def _subjects(subjects: Sequence[Object]) -> list[Object]:
    return [{key: each[key] for key in ("kind", "name", "namespace") if key in each} for each in subjects]


def _schema_of(default: Any) -> Schema:
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int):
        return {"type": "integer", "minimum": 0}
    return dict(_STRING)


def _settings_schemas() -> Iterator[tuple[str, Schema]]:
    """Yield the name and the JSON schema of each setting of the program."""
    whole = Settings.model_json_schema()
    for name, (group, field_name, info) in zip(setting_names(), setting_fields(), strict=True):
        tree = whole
        if group is not None:
            tree = whole["$defs"][whole["properties"][group]["$ref"].rpartition("/")[2]]
        schema = tree["properties"][field_name]
        given = next((each for each in schema.get("anyOf", []) if each["type"] != "null"), schema)
        kept = {key: value for key, value in given.items() if key not in {"default", "title"}}
        yield name, {**kept, "description": info.description}
