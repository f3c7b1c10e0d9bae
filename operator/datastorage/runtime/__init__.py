"""The running process: the order of start and stop, supervision, checks of its health.

This package decides when things begin and end. ``assembly`` builds them.
"""
