"""A Prometheus that reads the metrics of operators, and an Alertmanager that sends messages about alerts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from harness.controlplane.processes import Component, ProcessGroup
from harness.ports import free_port
from harness.prometheus.client import PrometheusClient, fetched

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0
"""For the end of a server; nothing of it is needed any more."""
_CONSOLES: Final = Path(__file__).resolve().parent / "_consoles"


@dataclass(frozen=True)
class Reading:
    """How often Prometheus reads the metrics and evaluates the rules, as it writes durations."""

    scrape: str = "15s"
    evaluation: str = "15s"


class _Server:
    """A program with a port of this machine, ended with the context.

    Entering it raises ComponentError, with the end of the log, if the program does not answer.
    """

    def __init__(self, name: str, command: Sequence[str], directory: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / f"{name}.log"
        self._component = Component(name, command, self.log)
        self._group: ProcessGroup | None = None

    def __enter__(self) -> Self:
        self._group = ProcessGroup()
        try:
            self._component.start(self._group)
            self._component.wait_ready(self._is_ready, _START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._component.stop(_STOP_SECONDS)
        if self._group is not None:
            self._group.kill()

    def check(self) -> None:
        """Raise ComponentError with the end of the log if it has ended by itself."""
        self._component.check()

    def _is_ready(self) -> bool:
        try:
            fetched(f"{self.url}/-/ready")
        except OSError:
            return False
        return True


class Alertmanager(_Server):
    """Sends a message about each alert to a webhook, at once, and another one when it has ended."""

    def __init__(self, program: Path, directory: Path, webhook: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        configuration = directory / "alertmanager.json"
        configuration.write_text(json.dumps(_routing(webhook)))
        port = free_port()
        command = [
            str(program),
            f"--config.file={configuration}",
            f"--storage.path={directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ]
        super().__init__("alertmanager", command, directory, port)


class Prometheus(_Server):
    """Evaluates rules over the metrics of the targets that it was given last.

    It is built from Go's module alone, which lacks the pages of Prometheus: ``alerts_page`` is one of ours.
    """

    def __init__(
        self,
        program: Path,
        directory: Path,
        rules: str,
        reading: Reading = Reading(),
        *,
        alertmanager: Alertmanager | None = None,
    ) -> None:
        """``rules`` is the text of a rules file."""
        directory.mkdir(parents=True, exist_ok=True)
        self._targets = directory / "targets.json"
        self.read({})
        (directory / "rules.yaml").write_text(rules)
        configuration = directory / "prometheus.json"
        configuration.write_text(json.dumps(self._configuration(reading, alertmanager)))
        port = free_port()
        command = [
            str(program),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--web.console.templates={_CONSOLES}",
            "--log.level=warn",
        ]
        super().__init__("prometheus", command, directory, port)
        self.client = PrometheusClient(self.url)

    def read(self, targets: Mapping[str, Mapping[str, str]]) -> None:
        """Read these targets (host:port) from now on, and no others; their series get the labels of each."""
        found = [{"targets": [target], "labels": dict(labels)} for target, labels in targets.items()]
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps(found))
        fresh.replace(self._targets.with_suffix(".json"))

    @property
    def alerts_page(self) -> str:
        """The address of a page for a browser that shows the alerts now and in the last minutes."""
        return f"{self.url}/consoles/alerts.html"

    def _configuration(self, reading: Reading, alertmanager: Alertmanager | None) -> dict[str, Any]:
        told = [] if alertmanager is None else [alertmanager.url.removeprefix("http://")]
        return {
            "global": {"scrape_interval": reading.scrape, "evaluation_interval": reading.evaluation},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": "datastorage", "file_sd_configs": [{"files": [str(self._targets)]}]}
            ],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": told}]}]},
        }


def _routing(webhook: str) -> dict[str, Any]:
    return {
        "route": {
            "receiver": "webhook",
            "group_by": ["alertname"],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [
            {"name": "webhook", "webhook_configs": [{"url": webhook, "send_resolved": True}]},
        ],
    }
