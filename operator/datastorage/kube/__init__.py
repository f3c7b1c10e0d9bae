"""The API server: the connection to it, the requests to it, and the supervised watches.

This package sends requests and translates the answers; it decides nothing. From the bottom up: kubeconfig and
proxies read the configuration, endpoint makes one value of it, and credentials keeps the connection settings
up to date. transport sends every request with them and reports to accessmonitor; apirequest and answers
describe requests and interpret answers, for any resource. objects handles the two kinds, rightsreview checks
our rights, and accessreviews asks about the callers of our API. watch runs a Kopf operator for each kind; its
requests go through watchsession, watchretry repeats them, and watchmonitor knows the state of each watch.
"""
