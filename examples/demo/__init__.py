"""`make demo`: the whole way of a record on a real control plane, with every claim checked.

`services` and `stage` set everything up; `story`, `events`, `meaning` and `outage` play; `finale` shows what
is left. `checks` checks the claims, and `narrator` prints.
"""
