"""The values that several packages share: records, keys, vectors, states, reasons, canonical bytes, times.

This package holds frozen data and functions on it; nothing in it waits, reads or writes.
"""
