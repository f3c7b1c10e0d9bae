"""The recording and alerting rules of Prometheus, and everything that is made from them.

``alerts.py`` and ``objectives.py`` are the only source of the rules. ``rendering.py`` writes them for a
selection of series, ``files.py`` makes the files of the repository, and ``runbook.py`` the parts of its page
that repeat the rules.
"""
