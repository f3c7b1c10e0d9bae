"""The pydantic models of the specs: the single source of the CRDs.

What belongs here: fields, bounds, rules and their descriptions. What does not: what a field means to the
archive (resources/reading).
"""
