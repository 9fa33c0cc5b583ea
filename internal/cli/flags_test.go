package cli

import (
	"reflect"
	"testing"

	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
)

// No option of a model is lost on the way from the flags to the library.
func TestModelOptionsReachTheLibrary(t *testing.T) {
	f := &modelFlags{grid: []int{1, 2, 3}, Options: instance.Options{Model: "m.onnx", ModelOptions: network.ModelOptions{
		TargetLayer: "head", LayerLayout: "NTC", PrefixTokens: 2, InputAxes: "NDHWC", Input: "mr", Output: "logits", Task: "multi-label", SHA256: "0"}}}
	o, err := f.library([4]int{1, 2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	given, err := f.options([4]int{1, 2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	from, to := reflect.ValueOf(given.ModelOptions), reflect.ValueOf(o)
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		if name == "SHA256" { // of one process for another
			continue
		}
		if from.Field(i).IsZero() {
			t.Errorf("%s is not tested: set it at the top of this test", name)
			continue
		}
		if got := to.FieldByName(name); !got.IsValid() {
			t.Errorf("voxcam.Options has no field %s", name)
		} else if !reflect.DeepEqual(got.Interface(), from.Field(i).Interface()) {
			t.Errorf("%s is %v, not %v: modelFlags.library does not hand it on", name, got, from.Field(i))
		}
	}
}
