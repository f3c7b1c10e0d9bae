"""`make demo`: a record's whole path on a real control plane, with every claim checked.

`services`, `stage` and `monitoring` set everything up, and `scene` has it for the scenes, which are `story`,
`events`, `meaning`, `outage` and `requests`. `watched` and `finale` show what Prometheus saw and what is
left. `checks` checks the claims, and `narrator` prints.
"""
