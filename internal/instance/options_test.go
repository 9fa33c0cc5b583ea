package instance

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/network"
)

func TestOptionsGoThroughJSON(t *testing.T) {
	o := Options{ModelOptions: network.ModelOptions{TargetLayer: "l", LayerLayout: "auto", TokenGrid: [3]int{1, 2, 3}, InputAxes: "NDHWC", Input: "mr", Output: "grade", Task: "regression", PrefixTokens: 1, Shape: [4]int{1, 2, 3, 4}, SHA256: "5"}, Model: "m", Ahead: true, Device: "cuda:1", Precision: "bf16", Threads: 3, Budget: "50%", Shuttle: "idle", LaunchBlocking: true, Held: true, Until: time.Unix(5, 0).UTC()}
	for _, field := range reflect.VisibleFields(reflect.TypeOf(o)) {
		if reflect.ValueOf(o).FieldByIndex(field.Index).IsZero() {
			t.Errorf("%s is not tested", field.Name)
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var back Options
	if err := json.Unmarshal(text, &back); err != nil || back != o {
		t.Errorf("%s is %+v: %v", text, back, err)
	}
}
