//go:build !invariants

// Package invariants says whether costly checks are compiled in: build with -tags invariants to have them.
package invariants

// Enabled says whether invariants are checked and dead memory is poisoned.
const Enabled = false
