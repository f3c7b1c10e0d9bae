"""The way to a PostgreSQL server: its URL, files and hosts, the pool, one session, and what errors mean.

What belongs here: everything that would be the same for any schema. What does not: statements on our tables.
"""
