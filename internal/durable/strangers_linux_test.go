package durable

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A folder of the tree and a link to a folder elsewhere take turns while files are written: whatever comes of it comes in the tree.
func TestLinksThatComeAndGo(t *testing.T) {
	dir, untouched := outside(t)
	root := t.TempDir()
	f := open(t, root)
	at, aside := filepath.Join(root, "a"), filepath.Join(root, "aside")
	if err := errors.Join(os.Mkdir(at, 0o755), os.Symlink(dir, aside)); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, at, unix.AT_FDCWD, aside, unix.RENAME_EXCHANGE) //nolint:errcheck // not all systems can
			}
		}
	}()
	written := 0
	for i := range 60 {
		if _, err := f.WriteFile("a/only_copy", text("new")); err == nil {
			written++
		}
		if stage, err := f.Stage("a/case"); err == nil {
			stage.Commit() //nolint:errcheck // it may meet the link
			stage.Abort()
		}
		f.Remove("a/only_copy") //nolint:errcheck // the same
		if i%10 == 0 {
			f.RemoveOurs("a", func(string) bool { return true }) //nolint:errcheck // the same
			os.Mkdir(at, 0o755)                                  //nolint:errcheck // the same
		}
	}
	close(stop)
	<-done
	untouched()
	if written == 0 {
		t.Error("nothing was written at all")
	}
}
