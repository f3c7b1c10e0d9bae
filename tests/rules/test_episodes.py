"""What a real Prometheus records of an alert that is pending, fires and ends, and how that is read."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from harness.polling import until_blocking
from harness.prometheus.client import fetched
from harness.prometheus.episodes import Episode, episodes, episodes_of
from harness.prometheus.programs import ensure_prometheus_alone
from harness.prometheus.servers import Prometheus, Reading
from harness.rules.rendering import yaml_text

_OFTEN = Reading(scrape="200ms", evaluation="200ms")
_RULE = {
    "alert": "TooHot",
    # The last value of a minute: on a busy machine, a reading takes longer than the 200 ms that it has.
    "expr": "sum by (room) (last_over_time(temperature[1m])) > 30",
    "for": "1s",
    "labels": {"severity": "warning"},
}


def line(state: str, *moments: float, **labels: str) -> dict[str, Any]:
    metric = {"__name__": "ALERTS", "alertname": "TooHot", "alertstate": state, "job": "rooms", **labels}
    return {"metric": metric, "values": [(moment, "1") for moment in moments]}


def test_an_alert_is_pending_then_fires_then_ends() -> None:
    series = [line("firing", 12, 13), line("pending", 10, 11)]
    assert episodes(series, until=20, step=1) == [Episode("TooHot", (), 10, 12, 14)]


def test_an_alert_that_is_active_at_the_end_has_not_ended() -> None:
    assert episodes([line("firing", 18, 19)], until=20, step=1) == [Episode("TooHot", (), None, 18, None)]


def test_an_alert_that_comes_back_has_two_episodes_and_one_that_only_waits_never_fires() -> None:
    series = [line("pending", 10, 11, 15), line("firing", 16, 17)]
    assert episodes(series, until=30, step=1) == [
        Episode("TooHot", (), 10, None, 12),
        Episode("TooHot", (), 15, 16, 18),
    ]


def test_labels_tell_alerts_of_one_name_apart_and_the_earliest_is_the_first() -> None:
    series = [line("firing", 14, room="attic", severity="warning"), line("firing", 12, room="cellar")]
    assert [each.name for each in episodes(series, until=30, step=1)] == [
        "TooHot room=cellar",
        "TooHot room=attic",
    ]


class Room(BaseHTTPRequestHandler):
    """A page of metrics."""

    def do_GET(self) -> None:
        assert isinstance(self.server, Rooms)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(f'temperature{{room="attic"}} {self.server.temperature}\n'.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Rooms(ThreadingHTTPServer):
    temperature = 20.0


@contextmanager
def rooms() -> Iterator[Rooms]:
    with Rooms(("127.0.0.1", 0), Room) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def page(prometheus: Prometheus) -> str:
    return fetched(prometheus.alerts_page).decode()


def test_what_prometheus_has_recorded_is_read_and_its_page_shows_it(tmp_path: Path) -> None:
    rules = yaml_text({"groups": [{"name": "rooms", "rules": [_RULE]}]})
    with (
        rooms() as server,
        Prometheus(ensure_prometheus_alone(), tmp_path, rules, _OFTEN) as prometheus,
    ):
        began = time.time()
        prometheus.read({f"127.0.0.1:{server.server_port}": {}})
        found = partial(episodes_of, prometheus.client, since=began, step=0.2)
        until_blocking(lambda: bool(prometheus.client.query("temperature")), what="it is read")
        assert found() == []
        assert "None is pending" in page(prometheus)
        server.temperature = 40.0
        until_blocking(lambda: found()[-1:] != [] and found()[-1].firing is not None, what="it fires")
        assert found()[0].ended is None
        assert '<td class="firing">firing</td>' in page(prometheus)
        server.temperature = 20.0
        until_blocking(lambda: found()[0].ended is not None, what="it ends")
        (episode,) = found()
        assert episode.name == "TooHot room=attic"
        assert episode.pending is not None
        assert episode.firing is not None
        assert episode.ended is not None
        assert began < episode.pending < episode.firing < episode.ended < time.time()
        assert "None is pending" in page(prometheus)
