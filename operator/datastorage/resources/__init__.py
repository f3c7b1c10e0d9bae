"""The custom resources: what they are called, what may stand in them, what the operator writes back.

The pydantic models are the single source of the CRDs (see `crd`). The write path never validates with them:
the API server has done so already, and raw dicts go through untouched.
"""
