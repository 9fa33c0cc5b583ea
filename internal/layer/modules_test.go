package layer_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/layer"
)

// TestNoNameIsAnotherTensor names every module of a network that exporters tell badly: calls of one module, norms folded inside and
// outside of a container, parents that are lost, modules that look like calls. The answer is the output of the module's last call in
// PyTorch, or a warning or an error. In files of tools/export_onnx.py it is that output, and certain. testdata/make.py tells values by
// their numbers.
func TestNoNameIsAnotherTensor(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "modules.json"))
	if err != nil {
		t.Fatal(err)
	}
	var known struct {
		Modules []string
		Values  map[string]map[string][][]string // by form and module, for each call the values that equal its output
	}
	if err := json.Unmarshal(text, &known); err != nil {
		t.Fatal(err)
	}
	for form, outputs := range known.Values {
		t.Run(form, func(t *testing.T) {
			m := load(t, filepath.Join("testdata", "modules."+form+".onnx"), nil)
			right, warned, refused := 0, 0, 0
			for _, name := range known.Modules {
				calls := outputs[name]
				got, err := find(m, layer.Request{Name: name})
				exact := err == nil && len(calls) > 0 && slices.ContainsFunc(calls[len(calls)-1], func(v string) bool { return m.Names[v] == got.Value })
				certain := err == nil && len(got.Warnings) == 0
				switch {
				case err != nil:
					refused++
				case !certain:
					warned++
				case exact:
					right++
				default:
					t.Errorf("%s is %q, which is another tensor, without a word", name, got.Value.Name)
				}
				if got.Another != "" && exact {
					t.Errorf("%s is said to be another tensor: %s", name, got.Another)
				}
				if form[:4] == "tool" && name != "fc" && len(calls) > 0 && (!exact || !certain || got.Calls != len(calls)) {
					t.Errorf("%s is %v, call %d of %d, in a file that says what it is: %v %v", name, got.Value, got.Call, got.Calls, got.Warnings, err)
				}
			}
			t.Logf("%d right, %d with a warning, %d refused", right, warned, refused)
			if right < len(known.Modules)/3 {
				t.Errorf("only %d of %d modules are certain", right, len(known.Modules))
			}
		})
	}
}

// TestDefaultLayer lets the program choose: the layer that an expert would take, the same in every export of a model.
func TestDefaultLayer(t *testing.T) {
	const slices, tokens = "architectures/slices_", "architectures/cls_"
	for file, want := range map[string]string{
		"models_and_files/15-default-layer-after-groupnorm/model_torchscript_17.onnx": "body.6",
		"models_and_files/04-module-called-twice/model_torchscript.onnx":              "layer4.1",
		"models_and_files/04-module-called-twice/model_dynamo.onnx":                   "layer4.1",
		slices + "ConvNeXt.ts17.onnx":                                                 "net.3",
		slices + "ConvNeXt.dynamo.onnx":                                               "net.3",
		slices + "attention.ts17.onnx":                                                "net.3",
		slices + "attention.dynamo.onnx":                                              "net.3",
		slices + "transformer.ts17.onnx":                                              "net.3",
		slices + "transformer.dynamo.onnx":                                            "net.3",
		slices + "tiled.ts17.onnx":                                                    "net.3",
		slices + "tiled.dynamo.onnx":                                                  "net.3",
		tokens + "conv_1.onnx":                                                        "blocks.1.norm1",
		tokens + "conv_2.onnx":                                                        "blocks.1.norm1",
		tokens + "linear_1.onnx":                                                      "blocks.1.norm1",
	} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			m := loadReported(t, file)
			got, err := find(m, layer.Request{})
			if err != nil || got.Label != want {
				t.Errorf("the default is %q %v, not %s: %v", got.Label, got.Value, want, err)
			}
			again, err := find(m, layer.Request{Name: got.Label})
			if err != nil || again.Value != got.Value {
				t.Errorf("%s is %v, the default is %v: %v", got.Label, again.Value, got.Value, err)
			}
		})
	}
}

// TestRecordsAreData reads what only looks like a record of tools/export_onnx.py, or is of another file.
func TestRecordsAreData(t *testing.T) {
	m := load(t, filepath.Join("testdata", "modules.tool_torchscript.onnx"), nil)
	for _, record := range []string{
		``,
		`not JSON`,
		`{"relu_1":7}`,
		`{"relu_1":null}`,
		`{"relu_1":[]}`,
		`{"relu_1":[{"value":"nowhere"}]}`,
		`{"relu_1":[{"value":""}]}`,
		`{"relu_1":[{"value":"fc.weight"}]}`,
		`{"relu_2":[{"value":"","in_place":true}]}`,
		`{"gone":[{"value":""}],"relu":[{}],"a":[{}]}`,
	} {
		m.Model.Metadata["voxcam.modules"] = record
		got, err := find(m, layer.Request{Name: "relu_1"})
		if err != nil || len(got.Warnings) == 0 {
			t.Errorf("%s: %v, %q, %v", record, got.Value, got.Warnings, err)
		}
		for _, name := range []string{"gone", "relu_2", ""} {
			if _, err := find(m, layer.Request{Name: name}); name == "gone" && err == nil {
				t.Errorf("%s: a layer called gone is found", record)
			}
		}
	}
}

// What the export noted of an output that is overwritten later is told: it is the ReLU's where only a ReLU reads it, else the module's own.
func TestOverwrittenOutputs(t *testing.T) {
	m := load(t, filepath.Join("testdata", "modules.tool_torchscript.onnx"), nil)
	readers := map[string]int{}
	for _, n := range m.Nodes {
		for _, v := range n.InputNames {
			readers[v]++
		}
	}
	alone, shared := 0, 0
	for _, n := range m.Nodes {
		if len(n.Outputs) != 1 || n.Outputs[0] == nil || n.Outputs[0].Const != nil || readers[n.Outputs[0].Name] == 0 || len(n.Outputs[0].Shape()) != 5 {
			continue
		}
		value := n.Outputs[0].Name
		m.Model.Metadata["voxcam.modules"] = fmt.Sprintf(`{"noted":[{"value":%q,"in_place":true}]}`, value)
		got, err := find(m, layer.Request{Name: "noted"})
		switch {
		case err != nil:
			t.Errorf("%s: %v", value, err)
		case got.Value.Name == value:
			if shared++; len(got.Warnings) == 0 || !strings.Contains(got.Warnings[0], "overwrites the output") {
				t.Errorf("%s: its own output is explained, and the warnings are %q", value, got.Warnings)
			}
		default:
			if alone++; len(got.Notes) == 0 || !strings.Contains(got.Notes[0], "runs in place") || readers[value] != 1 {
				t.Errorf("%s: %s is explained, and the notes are %q", value, got.Value.Name, got.Notes)
			}
		}
	}
	if alone == 0 || shared == 0 {
		t.Errorf("%d outputs with a ReLU alone, %d others: both are wanted", alone, shared)
	}
}
