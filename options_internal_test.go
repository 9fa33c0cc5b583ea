package voxcam

import (
	"reflect"
	"testing"
	"time"
)

// No option is lost on the way to the engine.
func TestOptionsReachTheEngine(t *testing.T) {
	values := map[string]any{
		"TargetLayer": "head", "InputAxes": "NDHWC", "Input": "mr", "Output": "grade", "Task": "regression", "TokenGrid": [3]int{1, 2, 3}, "PrefixTokens": 2, "LayerLayout": "NTC", "Shape": [4]int{1, 2, 3, 4},
		"Device": "cpu", "Precision": "tf32", "Threads": 3, "Budget": "50%", "Policy": &Policy{Wait: time.Second}, "Shuttle": "always", "LaunchBlocking": true,
	}
	without, err := Options{}.engine("m.onnx")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		value, ok := values[f.Name]
		if !ok {
			t.Errorf("%s is not tested", f.Name)
			continue
		}
		var o Options
		reflect.ValueOf(&o).Elem().FieldByIndex(f.Index).Set(reflect.ValueOf(value))
		with, err := o.engine("m.onnx")
		if err != nil || reflect.DeepEqual(with, without) {
			t.Errorf("%s does not reach the engine: %v", f.Name, err)
		}
	}
}
