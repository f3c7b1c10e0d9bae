"""The product on a kind cluster, installed as users do it: `python -m e2e.kind --help`.

`options` is the command line, `nodes` chooses the images, `cluster` brings the cluster up and removes it,
`installation` installs the product and looks at it, and `suites` runs the tests.
"""
