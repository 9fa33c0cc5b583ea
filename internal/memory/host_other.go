//go:build !linux

package memory

func hostTotal() int { return 0 }
