"""The way of a record: intake, batch, commit, status, garbage collection; and the sweep that forgets nothing.

What belongs here: order, bounds, retries. What does not: SQL (storage) and HTTP to the cluster (kube).
"""
