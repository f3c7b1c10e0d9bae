"""Numbered schema migrations, run by Alembic; the SQL of each stands beside its revision file."""
