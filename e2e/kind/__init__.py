"""The e2e tests on a kind cluster, with the operator's image and manifests tried there first."""
