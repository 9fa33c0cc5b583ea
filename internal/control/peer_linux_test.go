package control

import (
	"net"
	"strings"
	"testing"
)

func TestStrangers(t *testing.T) {
	if err := checkUser(7, 8); err == nil || !strings.Contains(err.Error(), "user 7 may not ask") {
		t.Errorf("another user: %v", err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if checkPeer(a) == nil {
		t.Error("a connection that has no owner is answered")
	}
}
