"""Kubernaut Data Storage: moves audit custom resources from the cluster into PostgreSQL."""

__version__ = "0.1.0"
