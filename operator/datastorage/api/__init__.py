"""The HTTP servers of the process.

What belongs here: routes, the form of their answers, and who may use them. What does not: the facts in the
answers (other packages).
"""
