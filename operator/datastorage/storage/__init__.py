"""PostgreSQL: connections, schema, and the statements that write and read the archive.

This package holds everything that knows SQL, and nothing that knows Kubernetes.
"""
