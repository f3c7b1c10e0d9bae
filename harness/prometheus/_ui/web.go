// Package ui takes the place of Alertmanager's own, which embeds pages that its Go module does not have.
package ui

import "github.com/prometheus/common/route"

// Register adds no page: Alertmanager then serves its API alone.
func Register(*route.Router) {}
