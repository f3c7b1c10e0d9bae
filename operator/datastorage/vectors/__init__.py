"""Care for vectors after the commit: writing pending ones, promoting statuses, indexing, re-embedding.

What belongs here: work that may be late. What does not: the write path (pipeline), SQL (storage).
"""
