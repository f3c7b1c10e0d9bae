"""The meaning of specs: one file a kind, which alone knows what the fields of its kind mean.

Reading raw objects into columns, words, sentences, outcomes and records belongs here. The models of which the
CRDs are made (they validate nothing here), SQL and the cluster do not.
"""
