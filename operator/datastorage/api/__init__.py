"""The HTTP servers of the process.

This package holds routes, the form of their answers, and who may use them. The facts in the answers come from
other packages.
"""
