"""The values that several rooms share: records, keys, vectors, states, reasons, canonical bytes, times.

Frozen data and pure functions of it belong here; nothing that waits, reads or writes does.
"""
