"""Examples to run: the manifests of a remediation, a controller that records Events, and the demo."""
