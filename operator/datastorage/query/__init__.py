"""Asking the archive: search, pages, single records, remediations.

Questions, answers, and the ways to find answers belong here. SQL (storage), and the options and formats of
one interface do not.
"""
