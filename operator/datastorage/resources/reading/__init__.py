"""The meaning of specs: one file for each kind, which alone knows what the fields of its kind mean.

Only specwords.py, which reads any spec, has the names of the fields of all kinds, too.

This package turns raw objects into columns, words, sentences, outcomes and records. It uses neither the
models that the CRDs are generated from, nor SQL, nor the cluster.
"""
