"""The dashboard for Grafana, and everything that is made from it.

``storing.py``, ``vectors.py``, ``asking.py`` and ``running.py`` are the only source of the panels, and
``table.py`` has their order. ``grafana.py`` builds the JSON that Grafana imports, ``page.py`` the part of the
documentation that lists the panels, and ``files.py`` puts both into the repository. ``pictures.py`` draws the
panels for that page: from ``incident.py``, by the questions in ``shown.py``, with ``drawing.py``.
"""
