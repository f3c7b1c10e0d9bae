"""How well a search finds what an engineer on call is looking for: the labelled set, the measures, and a real
sentence model to compare with, served the way OpenAI serves its own.

For development only: nothing of this is installed with the program. README.md beside this file says how
the set was made and how to add to it.
"""
