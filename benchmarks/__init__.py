"""The benchmark: what the operator reaches on a real control plane, beside what that control plane can do.

``python -m benchmarks --help`` explains how to run it; docs/reference/benchmarks.md explains how to read it.
"""
