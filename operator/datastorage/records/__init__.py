"""The values that several packages share: records, keys, vectors, states, reasons, canonical bytes, times.

Frozen data and pure functions on it belong here; nothing that waits, reads or writes does.
"""
