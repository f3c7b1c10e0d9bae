"""The custom resources: their names, their contents, and the status that the operator writes.

The pydantic models are the single source of the CRDs (see `crd`). The write path never validates with them:
the API server has already done so, and raw dicts pass unchanged.
"""
