"""Asking the archive: search, pages, single records, remediations.

What belongs here: what a question may be, what an answer is, and how an answer is found. What does not: SQL
(storage), options and formats of one interface.
"""
