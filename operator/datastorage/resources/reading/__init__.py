"""The meaning of specs: one file for each kind, which alone knows what the fields of its kind mean.

Reading raw objects into columns, words, sentences, outcomes and records belongs here. The models that the
CRDs are generated from (they validate nothing here), SQL and the cluster do not.
"""
