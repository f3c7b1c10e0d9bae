"""The REST API as a client sees it: the connection to a server, the tokens for it, its answers as our values.

Through this package a command can ask a server all that it can ask a database (query/interface.py).
"""
