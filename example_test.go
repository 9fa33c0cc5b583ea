package voxcam_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume/format"
)

func Example() {
	ctx := context.Background()
	m, err := voxcam.Open(ctx, "testdata/cases/pools/model.torchscript.onnx", voxcam.Options{Device: "cpu"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	v, err := voxcam.Read(ctx, "testdata/cases/pools/volume.npy", format.Options{})
	if err != nil {
		log.Fatal(err)
	}
	result, err := m.Explain(ctx, v, cam.Request{Methods: []string{"gradcam"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range result.Methods {
		fmt.Println(r.Method, r.Status, r.Dims, r.HeatDims)
	}
	// Output: gradcam ok [4 3 4] [11 14 13]
}

// A heatmap in a file, on the grid and at the place of the volume that was explained; Model.Save writes all that there is of a result.
func ExampleHeatmap() {
	ctx := context.Background()
	m, err := voxcam.Open(ctx, "testdata/cases/pools/model.torchscript.onnx", voxcam.Options{Device: "cpu"})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	v, err := voxcam.Read(ctx, "testdata/cases/pools/volume.npy", format.Options{})
	if err != nil {
		log.Fatal(err)
	}
	result, err := m.Explain(ctx, v, cam.Request{Methods: []string{"gradcam"}})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "voxcam")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "heatmap.nii.gz")
	if err := format.Write(path, voxcam.Heatmap(v, &result.Methods[0])); err != nil {
		log.Fatal(err)
	}
	heat, err := voxcam.Read(ctx, path, format.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(heat.Shape())
	// Output: 1x11x14x13
}
