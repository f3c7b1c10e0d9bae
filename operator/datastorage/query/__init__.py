"""Questions to the archive: search, pages, single records, remediations.

Questions, answers, and the ways to find answers belong here. SQL (in storage) and the options and formats of
a single interface do not.
"""
