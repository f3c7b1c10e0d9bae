"""The API server: how it is reached, what is asked of it, and the supervised watches.

HTTP to the API server and the translation of its answers belong here, decisions do not. From the bottom up:
kubeconfig and proxies read what is configured, endpoint makes one value of it, and credentials keeps the
connection settings up to date. transport sends every request with them; apirequest and answers describe a
request and judge an answer, of any resource. objects asks for the two kinds, rightsreview for our rights.
watch runs one Kopf for each kind; its requests go through watchsession, and patience repeats them.
"""
