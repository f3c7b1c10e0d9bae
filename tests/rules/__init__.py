"""The rules of Prometheus, held against stories of series that promtool plays."""
