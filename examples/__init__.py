"""Examples that run: a remediation told in manifests, a controller that records, and the demo of both."""
