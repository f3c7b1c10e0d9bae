"""A record's path from the cluster to the archive: intake, commit, status, garbage collection, and the sweep.

What belongs here: order, bounds, retries. What does not: SQL (storage) and HTTP to the cluster (kube).
"""
