"""Builds the components and wires them.

A replica (``replica.py``) is one process: the store, the connections, and everything that a process has once.
A shard (``shard.py``) processes a selection of the cluster's objects in that process, from their watch to
their deletion. ``store.py``, ``queries.py`` and ``commands.py`` build less, for single commands.

This package holds constructors with their arguments, and the order in which things are closed; decisions are
made in the components. Within the program, only ``runtime`` and ``cli`` import it.
"""
