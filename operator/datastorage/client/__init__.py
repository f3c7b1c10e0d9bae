"""The REST API as a client sees it: the connection to a server, the tokens for it, its answers as our values.

Whatever a command asks the archive, it can ask a server through this package (query/interface.py).
"""
