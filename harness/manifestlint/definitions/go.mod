// Modules of which only files are read: the definitions of the custom resources of others that the manifests use.
// Update: change a version, remove go.sum, run `go mod download`. `go mod tidy` would remove both.
module datastorage.kubernaut.io/manifestlint/definitions

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
