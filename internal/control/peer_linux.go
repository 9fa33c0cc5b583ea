package control

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer refuses clients of other users: the folder's mode alone is not relied upon.
func checkPeer(c net.Conn) error {
	socket, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("only sockets of this machine are answered")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if peerErr != nil {
		return fmt.Errorf("who asks is not known: %w", peerErr)
	}
	return checkUser(int(peer.Uid), os.Getuid())
}

func checkUser(peer, own int) error {
	if peer != own {
		return fmt.Errorf("the session belongs to user %d, user %d may not ask", own, peer)
	}
	return nil
}
