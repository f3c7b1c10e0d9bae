"""Measures how vectors are best indexed: what a write costs, and how fast and how well is searched.

Bare tables of its own on a PostgreSQL with its default, durable settings; nothing of the operator takes part
but the embedded server. What is compared, and why, is in the help of ``python -m benchmarks.vector_index``.
"""
