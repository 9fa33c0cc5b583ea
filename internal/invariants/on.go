//go:build invariants

package invariants

// Enabled says whether invariants are checked and dead memory is poisoned.
const Enabled = true
