"""How the container image is put together, made the same each time, and described.

The modules use the standard library alone: some run inside the build, others before anything is installed.
"""
