"""The pydantic models of the specs: the single source of the CRDs.

This package holds fields, bounds, rules and their descriptions. resources/reading knows what the archive does
with each field.
"""
