"""Gauges that several components share."""

from prometheus_client import CollectorRegistry, Gauge

from datastorage.metrics import Share


def test_a_gauge_is_the_sum_of_its_shares() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("depth", "", registry=registry)
    first, second = Share(gauge), Share(gauge)
    first.set(3)
    second.set(4)
    first.set(1)
    assert registry.get_sample_value("depth") == 5
    second.close()
    assert registry.get_sample_value("depth") == 1
    second.close()
    assert registry.get_sample_value("depth") == 1
