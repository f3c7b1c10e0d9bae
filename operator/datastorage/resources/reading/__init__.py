"""The meaning of specs: one file a kind, which alone knows what the fields of its kind mean.

What belongs here: how raw objects are read into columns, words, sentences, outcomes and records. What does
not: the models of which the CRDs are made (they validate nothing here), SQL, the cluster.
"""
