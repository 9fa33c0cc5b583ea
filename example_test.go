package voxcam_test

import (
	"context"
	"fmt"
	"log"

	"github.com/voxcam/voxcam"
)

func Example() {
	m, err := voxcam.Open("testdata/cases/pools/model.torchscript.onnx", voxcam.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	v, err := voxcam.Read("testdata/cases/pools/volume.npy", voxcam.ReadOptions{})
	if err != nil {
		log.Fatal(err)
	}
	result, err := m.Explain(context.Background(), v, voxcam.Request{Methods: []string{"gradcam"}})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range result.Methods {
		fmt.Println(r.Method, r.Status, r.Dims, r.HeatDims)
	}
	// Output: gradcam ok [4 3 4] [11 14 13]
}
