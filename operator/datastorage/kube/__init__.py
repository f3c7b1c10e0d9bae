"""The cluster: the way to it, the few requests that the pipeline makes, and the supervised watch.

HTTP to the API server and the translation of its answers belong here, decisions do not. From the bottom up:
kubeconfig and proxies say what is written where, access makes one value of it, credentials keeps that value
up to date, transport sends requests with it, and client and connection (for Kopf) use the transport.
"""
