package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// folders returns the folders of sockets, the best first: a user's runtime folder ends with the login and belongs to the user alone; all users
// share the folder for temporary files.
func folders() []string {
	var out []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) { // relative ones are to be ignored, by its specification
		out = append(out, filepath.Join(dir, "voxcam"))
	}
	return append(out, filepath.Join(os.TempDir(), "voxcam-"+strconv.Itoa(os.Getuid())))
}

// checkFolder refuses a folder that other users can put sockets in. It returns fs.ErrNotExist as it is.
func checkFolder(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, known := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a folder: remove it, sessions are reached through sockets in it", path)
	case !known || int(stat.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to another user: sessions are reached through sockets in a folder of that name", path)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s is open to other users (mode %#o): chmod 700 it, sessions are reached through sockets in it", path, info.Mode().Perm())
	}
	return nil
}

// makeFolder makes the first of the folders that can be made and trusted.
func makeFolder() (string, error) {
	var errs []error
	for _, path := range folders() {
		err := os.Mkdir(path, 0o700)
		if err == nil || errors.Is(err, fs.ErrExist) {
			err = checkFolder(path)
		}
		if err == nil {
			return path, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

const suffix = ".sock"

func socketName(pid int) string { return strconv.Itoa(pid) + suffix }

// socketPID returns the number of the process that a socket's name stands for.
func socketPID(name string) (pid int, ok bool) {
	number, found := strings.CutSuffix(name, suffix)
	pid, err := strconv.Atoi(number)
	return pid, found && err == nil && pid > 0
}

// alive reports whether a process exists.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
