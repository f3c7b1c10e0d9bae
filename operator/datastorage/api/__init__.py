"""The HTTP servers of the process.

What belongs here: routes, and the form of their answers. What does not: the facts in them (other packages).
"""
