"""Turns the manifests into templates: each object as it stands, with actions where a value may change it."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from harness.chart.sources import Object, Sources
from harness.chart.values import OPTIONAL_POLICIES, dashboard_labels, network_policies
from harness.chart.yamltext import TemplateText
from harness.rules.files import INSTALLED
from harness.rules.rendering import RUNBOOK

NAMESPACE: Final = "datastorage-system"
"""Of every manifest. The chart has the namespace of the release in its place."""
_WHOLE_NAMESPACE: Final = re.compile(rf"(?<=: ){NAMESPACE}$", re.MULTILINE)
_RBAC: Final = "base/rbac.yaml"
_READ_ACCESS: Final = "components/read-access/bindings.yaml"
_KEEP: Final = "helm.sh/resource-policy"

Edit = Callable[[Object, TemplateText], None]


def _unchanged(_document: Object, _text: TemplateText) -> None:
    """Leave an object as it is."""


class Templates:
    """Makes the templates of one checkout."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        [labels] = sources.kustomization("base")["labels"]
        self._labels: dict[str, str] = labels["pairs"]

    def all(self) -> dict[str, str]:
        """Return the text of each template, by its file name."""
        return {
            "configmap.yaml": self._config_map(),
            "deployment.yaml": self._file("base/deployment.yaml", self._deployment),
            "guards.yaml": self._guards(),
            "networkpolicy.yaml": self._network_policies(),
            "pdb.yaml": _only_if("podDisruptionBudget.enabled", self._file("base/pdb.yaml", _budget)),
            "priorityclass.yaml": _only_if(
                "priorityClass.create", self._file("components/priority-class/priorityclass.yaml")
            ),
            "rbac.yaml": self._rbac(),
            "read-access.yaml": self._read_access(),
            "recorded-by.yaml": _only_if(
                "recordedBy.enabled",
                self._file("components/recorded-by/policy.yaml")
                + self._file("components/recorded-by/rbac.yaml"),
            ),
            "api-fallback.yaml": _only_if(
                "apiFallback.enabled", self._file("components/api-fallback/rbac.yaml")
            ),
            "secret.yaml": self._secret(),
            "service.yaml": self._file("base/service.yaml", self._service),
            "servicemonitor.yaml": _only_if(
                "serviceMonitor.enabled",
                self._file("components/servicemonitor/servicemonitor.yaml", _monitor),
            ),
            "prometheusrule.yaml": _only_if(
                "prometheusRule.enabled", _OWN_SERIES + self._file("monitoring/prometheusrule.yaml", _rules)
            ),
            "dashboard.yaml": _only_if("grafanaDashboard.enabled", self._dashboard()),
            "certificate.yaml": _only_if(
                "tls.certManager.enabled",
                self._file("components/tls/certificate/certificate.yaml", _certificate),
            ),
        }

    def _file(self, path: str, edit: Edit = _unchanged) -> str:
        return "".join(self._object(each, edit, path) for each in self._sources.objects(path))

    def _object(self, document: Object, edit: Edit, path: str) -> str:
        text = TemplateText()
        # The kustomization of the base adds labels to its own objects alone.
        labels = self._labels if path.startswith("base/") else {}
        helm = text.block('{{- include "datastorage.labels" $ | nindent +0 }}')
        document["metadata"]["labels"] |= labels | {helm: None}
        edit(document, text)
        written = _WHOLE_NAMESPACE.sub("{{ $.Release.Namespace | quote }}", text.write(document))
        return "---\n" + written.replace(NAMESPACE, "{{ $.Release.Namespace }}")

    def _config_map(self) -> str:
        document: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": "datastorage-config",
                "namespace": NAMESPACE,
                "labels": {},
            },
        }

        def data(config: Object, text: TemplateText) -> None:
            config["data"] = {text.block('{{- include "datastorage.settings" $ | nindent +0 }}'): None}

        return self._object(document, data, "base/")

    def _dashboard(self) -> str:
        [generator] = self._sources.kustomization("monitoring/dashboard")["configMapGenerator"]
        labels = {
            name: value
            for name, value in generator["options"]["labels"].items()
            if name not in dashboard_labels(self._sources)
        }
        document: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": generator["name"], "namespace": generator["namespace"], "labels": labels},
        }
        [source] = generator["files"]
        name, _, file = source.partition("=")

        def data(config: Object, text: TemplateText) -> None:
            config["metadata"]["labels"][text.block(*_with("grafanaDashboard.labels"))] = None
            # As a file of the chart: it is full of what a template would take for actions.
            content = f'{name}: {{{{ $.Files.Get "{file}" | toJson }}}}'
            config["data"] = {text.block(content): None}

        return self._object(document, data, "monitoring/dashboard")

    def settings(self) -> str:
        """Return the lines of _helpers.tpl that components, and the chart itself, add to the settings."""
        lines: list[str] = []
        for value, folder in (
            ("apiFallback.enabled", "components/api-fallback"),
            ("recordedBy.enabled", "components/recorded-by"),
        ):
            given = [f'{name}: "{setting}"' for name, setting in self._sources.settings(folder).items()]
            lines += [f"{{{{- if $.Values.{value} }}}}", *given, "{{- end }}"]
        directory = self._sources.settings("base")["DATASTORAGE_SECRETS_DIR"]
        return "\n".join([*lines, f'DATASTORAGE_SECRETS_DIR: "{directory}"'])

    def _deployment(self, document: Object, text: TemplateText) -> None:
        spec = document["spec"]
        spec["replicas"] = text.inline("{{ $.Values.replicas }}")
        template, pod = spec["template"], spec["template"]["spec"]
        template["metadata"]["labels"] |= self._labels | {text.block(*_with("podLabels")): None}
        template["metadata"]["annotations"] = {
            # A changed setting restarts the pods.
            "checksum/config": text.inline('{{ include "datastorage.settings" $ | sha256sum }}'),
            text.block(*_with("podAnnotations")): None,
        }
        pod["terminationGracePeriodSeconds"] = text.inline("{{ $.Values.terminationGracePeriodSeconds }}")
        for name in ("affinity", "topologySpreadConstraints"):
            del pod[name]
        for name in (
            "imagePullSecrets",
            "nodeSelector",
            "tolerations",
            "affinity",
            "topologySpreadConstraints",
        ):
            pod[text.block(*_with(name, name))] = None
        pod[text.block(*_PRIORITY_CLASS)] = None
        for volume in pod["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                value = source["secret"]["name"].removeprefix("datastorage-")
                source["secret"]["name"] = text.inline(f"{{{{ $.Values.{value}.secretName }}}}")
        self._tls(pod, text)
        for container in pod["initContainers"]:
            _environment(container, text, "$.Values.extraEnv")
        for container in (*pod["initContainers"], *pod["containers"]):
            _container(container, text)
        pod["volumes"].append(text.block(*_with("extraVolumes")))

    def _tls(self, pod: Object, text: TemplateText) -> None:
        """Add what the component adds to the pod, where the value asks for it."""
        patch = self._sources.patches("components/tls")[0]["spec"]["template"]["spec"]
        [added], [volume], [container] = patch["containers"], patch["volumes"], pod["containers"]
        volume["secret"]["secretName"] = text.inline("{{ $.Values.tls.secretName }}")
        _environment(container, text, "or $.Values.tls.enabled $.Values.extraEnv", added["env"])
        container["volumeMounts"].append(_item_if("tls.enabled", added["volumeMounts"], text))
        pod["volumes"].append(_item_if("tls.enabled", [volume], text))

    def _service(self, document: Object, text: TemplateText) -> None:
        document["metadata"][text.block(*_with("service.annotations", "annotations"))] = None
        port = document["spec"]["ports"][0]
        for change in self._sources.patches("components/tls")[1]:
            name = change["path"].rpartition("/")[2]
            if change["op"] == "replace":
                action = f'{{{{ ternary "{change["value"]}" "{port[name]}" $.Values.tls.enabled }}}}'
                port[name] = text.inline(action)
            else:
                line = f"{name}: {change['value']}"
                port[text.block("{{- if $.Values.tls.enabled }}", line, "{{- end }}")] = None

    def _rbac(self) -> str:
        parts: list[str] = []
        for document in self._sources.objects(_RBAC):
            kind, name = document["kind"], document["metadata"]["name"]
            if kind == "ServiceAccount":
                parts.append(_only_if("serviceAccount.create", self._object(document, _account, _RBAC)))
            elif kind in {"ClusterRole", "ClusterRoleBinding"} and name == "datastorage":
                # The rights to records, which an operator of single namespaces has in these alone.
                parts.append(_only_if("namespaces", self._object(document, _unchanged, _RBAC), negated=True))
            else:
                parts.append(self._object(document, _unchanged, _RBAC))
        rights = self._file("overlays/namespaced/rights/rbac.yaml", _in_each_namespace)
        return "".join([*parts, f"{{{{- range $.Values.namespaces }}}}\n{rights}{{{{- end }}}}\n"])

    def _guards(self) -> str:
        protection = self._sources.patches("components/guard-protection")[0]
        [finalizer] = protection[0]["value"]

        def keep(document: Object, text: TemplateText) -> None:
            # An uninstallation, or a value, must not open the way to a record that is not stored.
            document["metadata"]["annotations"] = {_KEEP: "keep"}
            lines = ("{{- if $.Values.guards.protected }}", f"finalizers: [{finalizer}]", "{{- end }}")
            document["metadata"][text.block(*lines)] = None

        files = (self._file(f"base/{name}-guard.yaml", keep) for name in ("deletion", "status"))
        return _only_if("guards.install", "".join(files))

    def _read_access(self) -> str:
        readers, exporters = self._sources.objects(_READ_ACCESS)

        def subjects(*names: str) -> Edit:
            def edit(document: Object, text: TemplateText) -> None:
                values = " ".join(f"$.Values.readAccess.{name}" for name in names)
                document["subjects"] = text.inline(
                    f'{{{{- include "datastorage.subjects" (concat {values}) | nindent +2 }}}}'
                )

            return edit

        parts = (
            self._object(readers, subjects("readers", "exporters"), _READ_ACCESS),
            self._object(exporters, subjects("exporters"), _READ_ACCESS),
        )
        return _only_if("readAccess.enabled", "".join(parts))

    def _network_policies(self) -> str:
        def own_pods(document: Object, _text: TemplateText) -> None:
            # A release may share its namespace with other workloads.
            document["spec"]["podSelector"] = {"matchLabels": {"app.kubernetes.io/name": "datastorage"}}

        parts = [self._file("components/networkpolicy/default-deny.yaml", own_pods)]
        for path, name, policy in network_policies(self._sources):
            written = self._object(policy, _peers(f"networkPolicy.{name}"), path)
            optional = name in OPTIONAL_POLICIES
            parts.append(_only_if(f"networkPolicy.{name}.enabled", written) if optional else written)
        return _only_if("networkPolicy.enabled", "".join(parts))

    def _secret(self) -> str:
        path = "base/secret.example.yaml"
        document = self._sources.found(path, "Secret", "datastorage-database")

        def urls(secret: Object, text: TemplateText) -> None:
            secret["metadata"]["name"] = text.inline("{{ $.Values.database.secretName }}")
            owner = "DATASTORAGE_DATABASE_OWNER_URL"
            values = {name: "ownerUrl" if name == owner else "url" for name in secret["stringData"]}
            secret["stringData"] = {
                name: text.inline(f"{{{{ $.Values.database.{value} | quote }}}}")
                for name, value in values.items()
            }

        return _only_if("database.create", self._object(document, urls, path))


_PRIORITY_CLASS: Final = (
    "{{- if or $.Values.priorityClass.create $.Values.priorityClass.name }}",
    'priorityClassName: {{ $.Values.priorityClass.name | default "datastorage" }}',
    "{{- end }}",
)


def _container(container: Object, text: TemplateText) -> None:
    container["image"] = text.inline('{{ include "datastorage.image" $ | quote }}')
    container["imagePullPolicy"] = text.inline("{{ $.Values.image.pullPolicy }}")
    container["resources"] = text.inline("{{- toYaml $.Values.resources | nindent +2 }}")
    container["volumeMounts"].append(text.block(*_with("extraVolumeMounts")))
    for port in container.get("ports", []):
        setting = {"http": "DATASTORAGE_API_PORT", "metrics": "DATASTORAGE_METRICS_PORT"}[port["name"]]
        default = port["containerPort"]
        port["containerPort"] = text.inline(
            f"{{{{ $.Values.settings.{setting} | default {default} | int64 }}}}"
        )


def _environment(container: Object, text: TemplateText, condition: str, tls: Sequence[Object] = ()) -> None:
    """Add variables to those of the container; without any there is no list at all, as in the base."""
    added = [*([_item_if("tls.enabled", list(tls), text)] if tls else []), text.block(*_with("extraEnv"))]
    if "env" in container:
        container["env"] += added
    else:
        container[
            text.block(f"{{{{- if {condition} }}}}", "env:", *(f"  {each}" for each in added), "{{- end }}")
        ] = None


def _in_each_namespace(document: Object, text: TemplateText) -> None:
    document["metadata"][text.block("namespace: {{ . | quote }}")] = None


def _account(document: Object, text: TemplateText) -> None:
    document["metadata"][text.block(*_with("serviceAccount.annotations", "annotations"))] = None


def _budget(document: Object, text: TemplateText) -> None:
    document["spec"]["maxUnavailable"] = text.inline("{{ $.Values.podDisruptionBudget.maxUnavailable }}")


def _monitor(document: Object, text: TemplateText) -> None:
    document["metadata"]["labels"][text.block(*_with("serviceMonitor.labels"))] = None
    for name in ("interval", "scrapeTimeout"):
        document["spec"]["endpoints"][0][name] = text.inline(f"{{{{ $.Values.serviceMonitor.{name} }}}}")


# With the opening brace: together with the braces of an action, it would not be understood.
_OWN_SERIES: Final = (
    '{{- $own := printf "namespace=%q,job=%q" $.Release.Namespace "datastorage" }}\n'
    '{{- $own = printf "{%s" ($.Values.prometheusRule.selector | default $own) }}\n'
)


def _rules(document: Object, text: TemplateText) -> None:
    document["metadata"]["labels"][text.block(*_with("prometheusRule.labels"))] = None
    for group in document["spec"]["groups"]:
        group["rules"] = [_rule(rule, text) for rule in group["rules"]]


def _rule(rule: Object, text: TemplateText) -> Object:
    if "annotations" in rule:
        section = rule["annotations"]["runbook_url"].removeprefix(RUNBOOK)
        link = f'{{{{ printf "%s{section}" $.Values.prometheusRule.runbookUrl | quote }}}}'
        rule["annotations"]["runbook_url"] = text.inline(link)
    lines = rule["expr"].replace(f"{{{INSTALLED.own}", "{{ $own }}").splitlines()
    expression = text.block("expr: |-", *(f"  {line}" for line in lines))
    return {expression if key == "expr" else key: None if key == "expr" else rule[key] for key in rule}


def _certificate(document: Object, text: TemplateText) -> None:
    spec = document["spec"]
    spec["secretName"] = text.inline("{{ $.Values.tls.secretName }}")
    for name in ("duration", "renewBefore"):
        spec[name] = text.inline(f"{{{{ $.Values.tls.certManager.{name} }}}}")
    for name in spec["issuerRef"]:
        spec["issuerRef"][name] = text.inline(f"{{{{ $.Values.tls.certManager.issuerRef.{name} | quote }}}}")


def _peers(value: str) -> Edit:
    def edit(document: Object, text: TemplateText) -> None:
        for direction, names in (("ingress", ("from",)), ("egress", ("to", "ports"))):
            for rule in document["spec"].get(direction, []):
                for name in names:
                    rule[name] = text.inline(f"{{{{- toYaml $.Values.{value}.{name} | nindent +4 }}}}")

    return edit


def _only_if(value: str, template: str, *, negated: bool = False) -> str:
    condition = f"not $.Values.{value}" if negated else f"$.Values.{value}"
    return f"{{{{- if {condition} }}}}\n{template}{{{{- end }}}}\n"


def _with(value: str, key: str = "") -> Iterable[str]:
    """Return lines with the content of a value, below a key if one is given; none if it is empty."""
    content = f"{{{{- toYaml . | nindent +{2 if key else 0} }}}}"
    return [f"{{{{- with $.Values.{value} }}}}", *([f"{key}:"] if key else []), content, "{{- end }}"]


def _item_if(value: str, items: list[Any], text: TemplateText) -> str:
    return text.block(f"{{{{- if $.Values.{value} }}}}", *text.dump(items).splitlines(), "{{- end }}")
