"""Decides whether the API server would accept an object, without asking it.

What belongs here: the rules of creation that the API server applies to a custom resource under strict field
validation, judged by the schema and the CEL rules of its own definition (see `crd`). What does not: who may
create an object, and what else is in the cluster, such as the namespace.

`verdict` is the entrance. It asks `schemacheck` (with `celrules`), `metadata` (with `names`), and `size`.
"""
