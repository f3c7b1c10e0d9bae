"""The running process: the order of start and stop, supervision, checks of its health.

What belongs here: when things begin and end. What does not: how they are built (assembly).
"""
