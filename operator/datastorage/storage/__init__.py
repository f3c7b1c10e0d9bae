"""PostgreSQL: connections, schema, and the statements that write and read the archive.

What belongs here: everything that knows SQL. What does not: anything that knows Kubernetes.
"""
