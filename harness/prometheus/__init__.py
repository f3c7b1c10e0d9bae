"""A real Prometheus with Alertmanager, for tests and demonstrations of the rules."""
