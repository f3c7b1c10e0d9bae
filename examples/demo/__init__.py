"""`make demo`: the whole way of a record on a real control plane, every claim checked.

`services` and `stage` set up, `story`, `events`, `meaning` and `outage` play, `finale` shows what is left;
`checks` decides, `narrator` tells.
"""
