"""Numbered schema migrations, run by Alembic; the SQL of each stands beside its revision file.

There are two chains: the archive, and the vectors, which may be on another server.
"""
