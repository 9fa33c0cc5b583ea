//go:build !amd64 || noasm

package kernel

func native() []*Set { return nil }
