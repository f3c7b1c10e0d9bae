"""The only place that builds and wires the components.

What belongs here: constructors with their arguments, and the order in which things are closed. What does not:
decisions. Nothing but the runtime, the command line and tests imports it.
"""
