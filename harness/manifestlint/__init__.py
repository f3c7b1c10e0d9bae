"""Checks the manifests with the linters of this field, without a cluster: `python -m harness.manifestlint`.

What only an API server can decide is in e2e/test_manifests.py, and what only this product can know in
tests/unit/test_manifests.py.
"""
