//go:build !linux

package control

import "net"

// checkPeer lets all in that the folder's mode lets in.
func checkPeer(net.Conn) error { return nil }
