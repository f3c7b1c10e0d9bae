"""The benchmark: what the operator reaches on a real control plane, beside what that control plane can do.

``python -m benchmarks --help`` tells how to run it; docs/benchmarks.md tells how to read it.
"""
