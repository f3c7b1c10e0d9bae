"""`make demo`: the whole way of a record on a real control plane, every claim checked.

`stage` sets up, `story` and `events` play, `finale` shows what is left; `checks` decides, `narrator` tells.
"""
