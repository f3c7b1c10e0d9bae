"""The only place that builds and wires.

A replica (``replica.py``) is one process: the store, the connections, and everything that a process has once.
A shard (``shard.py``) is the way of some of the cluster's objects through that process, from their watch to
their deletion. ``store.py``, ``queries.py`` and ``commands.py`` build less, for single commands.

What belongs here: constructors with their arguments, and the order in which things are closed. What does not:
decisions. Nothing but the runtime, the command line and tests imports it.
"""
