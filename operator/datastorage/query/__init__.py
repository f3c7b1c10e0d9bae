"""Questions to the archive: search, pages, single records, incidents.

This package holds questions, answers, and the ways to find answers. SQL is in ``storage``; the options and
formats of one interface are in that interface's package.
"""
