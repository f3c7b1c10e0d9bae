"""HTTP: what the process answers to others.

What belongs here: routes, and how their answers are written. What does not: what is true (the other rooms).
"""
