"""Connections to a PostgreSQL server: its URL, files and hosts, the pool, sessions, and the meaning of
errors.

What belongs here: everything that would be the same for any schema. What does not: statements on our tables.
"""
