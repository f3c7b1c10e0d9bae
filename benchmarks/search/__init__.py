"""Measures how well a search finds the records that an engineer on call is looking for, on a labelled set.

For development only: nothing of this is installed with the program. README.md in this folder says how the set
was made and how to add to it.
"""
