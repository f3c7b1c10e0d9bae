"""Examples that run: a remediation in manifests, a controller that records, and the demo of both."""
