package voxcam_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/voxcam/voxcam"
)

// What voxcam run --config CONFIG.toml does.
func ExampleRun() {
	path := dataSet()
	defer os.RemoveAll(filepath.Dir(path))
	config, err := voxcam.LoadConfig(path)
	if err != nil {
		log.Fatal(err)
	}
	if err := config.Set("explain.methods", []string{"gradcam", "saliency"}); err != nil {
		log.Fatal(err)
	}
	summary, err := voxcam.Run(context.Background(), config, voxcam.RunOptions{Observe: func(e voxcam.RunEvent) {
		switch e.Kind {
		case voxcam.RunSample:
			fmt.Printf("[%d/%d] %s/%s: %s\n", e.Done, e.Total, e.Split, e.Sample, e.Status)
		case voxcam.RunDevice:
			fmt.Println(e.Sample, e.Device.Kind, e.Device.Text)
		}
	}})
	var refused *voxcam.RefusedError
	if errors.As(err, &refused) {
		log.Fatal("nothing was begun: ", err)
	}
	for _, p := range summary.Problems {
		fmt.Println(p.Sample, p.Status, strings.TrimPrefix(p.Reason, filepath.Dir(path)))
	}
	fmt.Println(summary.OK, "of", summary.Selected, err)
	// Output:
	// [1/2] val/a: ok
	// [2/2] val/b: failed
	// b failed /b.npy: damaged npy file: the header is cut off: unexpected EOF
	// 1 of 2 <nil>
}

// dataSet writes a data set of two volumes, of which one cannot be read, and returns its configuration.
func dataSet() string {
	dir, err := os.MkdirTemp("", "voxcam")
	if err != nil {
		log.Fatal(err)
	}
	volume, err := os.ReadFile("testdata/cases/methods/volume.npy")
	if err != nil {
		log.Fatal(err)
	}
	model, err := filepath.Abs("testdata/cases/methods/model.torchscript.onnx")
	if err != nil {
		log.Fatal(err)
	}
	config := fmt.Sprintf(`
[model]
file = %q
[data]
folder = "."
labels = "labels.csv"
scale = "none"
[explain]
device = "cpu"
[output]
dir = "out"
session = "example"
formats = ["npy"]
`, model)
	for name, content := range map[string][]byte{
		"a.npy": volume, "b.npy": volume[:100], "labels.csv": []byte("caseID,label,split\na,1,val\nb,0,val\n"), "config.toml": []byte(config),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			log.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.toml")
}
