"""A record's path from the cluster to the archive: intake, commit, status, garbage collection, and the sweep.

This package holds the order, the bounds and the retries. SQL is in ``storage``, HTTP to the cluster in
``kube``.
"""
