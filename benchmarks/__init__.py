"""Measures the operator on a real control plane, and that control plane alone for comparison.

``python -m benchmarks --help`` explains how to run it; docs/reference/benchmarks.md explains how to read it.
"""
