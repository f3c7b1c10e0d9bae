"""Care for vectors after the commit: writing pending ones, promoting statuses, indexing, re-embedding.

This package holds the work that may be late. The write path is in ``pipeline``, SQL in ``storage``.
"""
