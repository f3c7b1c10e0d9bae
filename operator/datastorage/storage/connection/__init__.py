"""Connections to a PostgreSQL server: its URL, files and hosts, the pool, sessions, and the meaning of
errors.

This package holds everything that would be the same for any schema, and no statements on our tables.
"""
