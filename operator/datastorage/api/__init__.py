"""The HTTP servers of the process.

This package holds routes and the form of their answers. The facts in the answers come from other packages.
"""
