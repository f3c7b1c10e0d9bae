"""Numbered schema migrations, run by Alembic; the SQL of each stands beside its revision file.

Two chains: the archive, and the vectors, which may live on another server.
"""
