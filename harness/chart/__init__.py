"""Makes the Helm chart from crds/ and manifests/, which stay the only source of every object.

``values.py`` has the values of the chart, ``templates.py`` turns the manifests into templates, and
``build.py`` puts all files together. The texts that no manifest has are in files/.
"""
