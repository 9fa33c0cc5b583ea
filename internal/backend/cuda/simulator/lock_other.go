//go:build !unix

package simulator

// lock does nothing: the simulator runs on Linux only.
func lock(string) (unlock func(), err error) { return func() {}, nil }
