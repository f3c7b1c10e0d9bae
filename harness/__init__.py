"""What tests, benchmarks and examples share: servers, processes, clients, makers of objects.

A module belongs here when two of them need it. Assertions, scenarios and figures stay with their owner.
"""
