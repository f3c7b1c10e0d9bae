"""End-to-end tests: the shipped manifests and the operator on a real control plane."""
