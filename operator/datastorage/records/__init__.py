"""The values that several rooms share: records, keys, vectors, states, reasons, canonical bytes, times.

What belongs here: frozen data and pure functions of it. What does not: anything that waits, reads or writes.
"""
