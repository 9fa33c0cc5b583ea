// Command phantomset writes the training set of the demonstration model: images.npy [n, D, H, W] uint8, masks.npy (the same
// shape, 0 or 1) and labels.npy [n] uint8, with the grades in turn. tools/train_demo.py runs it.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/voxcam/voxcam/internal/phantom"
	"golang.org/x/sync/errgroup"
)

func main() {
	out := flag.String("out", "build/phantoms", "folder to write to")
	n := flag.Int("n", 1600, "number of phantoms")
	seed := flag.Uint64("seed", 1<<40, "seed of the first phantom; the others follow")
	flag.Parse()
	if err := write(*out, *n, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "phantomset:", err)
		os.Exit(1)
	}
}

func write(dir string, n int, seed uint64) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	set := make([]*phantom.Phantom, n)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range set {
		g.Go(func() (err error) {
			set[i], err = phantom.Generate(phantom.Params{Seed: seed + uint64(i), Grade: phantom.Grade(i % phantom.Grades)})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d := phantom.DefaultDims
	cube := fmt.Sprintf("(%d, %d, %d, %d)", n, d[0], d[1], d[2])
	for _, f := range []struct {
		name, shape string
		data        func(*phantom.Phantom) []uint8
	}{
		{"images.npy", cube, func(p *phantom.Phantom) []uint8 { return p.Image }},
		{"masks.npy", cube, func(p *phantom.Phantom) []uint8 { return p.Mask }},
		{"labels.npy", fmt.Sprintf("(%d,)", n), func(p *phantom.Phantom) []uint8 { return []uint8{uint8(p.Grade)} }},
	} {
		if err := writeNPY(filepath.Join(dir, f.name), f.shape, set, f.data); err != nil {
			return err
		}
	}
	return nil
}

// writeNPY streams an array of uint8: the set is larger than the volumes that the program's own writer is made for.
func writeNPY(path, shape string, set []*phantom.Phantom, data func(*phantom.Phantom) []uint8) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	header := fmt.Sprintf("{'descr': '|u1', 'fortran_order': False, 'shape': %s, }", shape)
	fmt.Fprintf(w, "\x93NUMPY\x01\x00v\x00%-117s\n", header) // 118 = 'v' bytes of header end at a multiple of 64
	for _, p := range set {
		w.Write(data(p))
	}
	return w.Flush()
}
