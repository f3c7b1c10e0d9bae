"""The cluster: its connection, the few requests that the pipeline makes, and the supervised watch.

What belongs here: HTTP to the API server and the translation of its answers. What does not: decisions.
"""
