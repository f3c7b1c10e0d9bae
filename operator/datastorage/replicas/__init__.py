"""What running replicas say about themselves in their metrics: where they are, reading, and sums.

``page``, ``history``, ``quantiles`` and ``look`` compute and do no input or output. The names of the metrics
and the words of their labels come from ``datastorage.metrics``.
"""
