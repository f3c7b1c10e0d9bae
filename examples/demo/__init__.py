"""`make demo`: a record's whole path on a real control plane, with every claim checked.

`services` and `stage` set everything up; `story`, `events`, `meaning` and `outage` are the scenes; `finale`
shows what is left. `checks` checks the claims, and `narrator` prints.
"""
