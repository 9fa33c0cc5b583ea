package layer

import (
	"encoding/json"
	"fmt"

	"github.com/voxcam/voxcam/internal/onnx"
)

// recordKey is the key of the file's metadata under which tools/export_onnx.py writes the calls of modules.
const recordKey = "voxcam.modules"

// entry has the tool's observations of a call of a module.
type entry struct {
	// Value is the name of the value that equals the output; "" if none does.
	Value string `json:"value"`
	// InPlace says that a later operation of PyTorch has overwritten the output.
	InPlace bool `json:"in_place"`
}

// recordOf reads the tool's record: the calls of each module, in order. It is nil for other files, and for damaged text.
func recordOf(m *onnx.Model) map[string][]entry {
	var modules map[string][]entry
	if json.Unmarshal([]byte(m.Metadata[recordKey]), &modules) != nil {
		return nil
	}
	return modules
}

// recorded finds the output of a module by the tool's record.
func (idx *index) recorded(t *Match, name string, calls []entry) error {
	t.Module, t.Calls = name, len(calls)
	if t.Call == 0 {
		t.Call = len(calls)
	}
	if t.Call > len(calls) {
		return fmt.Errorf("layer %q: of the calls of the module %s in the model the last is number %d", t.Label, name, len(calls))
	}
	call := calls[t.Call-1]
	t.Value = idx.m.Names[call.Value]
	if t.Value == nil || t.Value.Const != nil {
		if nodes := idx.module(name); len(nodes) > 0 { // the file was changed after the tool wrote it
			t.warn("the file does not have the output of %s any more that tools/export_onnx.py noted: it was changed since", name)
			t.Call = 0
			return idx.output(t, name, nodes)
		}
		return fmt.Errorf("layer %q: the output of the module %s is not in the file: it was merged into another operation, or does not depend on the volume", t.Label, name)
	}
	if !call.InPlace {
		return nil
	}
	if readers := idx.readers[t.Value]; len(readers) == 1 {
		if n := idx.m.Nodes[readers[0]]; n.Op == "Relu" && len(n.Outputs) == 1 && n.Outputs[0] != nil {
			t.Notes = append(t.Notes, fmt.Sprintf("the ReLU behind %s runs in place, so that hooks see its result, which is explained; name the value %q for the tensor before it", name, t.Value.Name))
			t.Value = n.Outputs[0]
			return nil
		}
	}
	t.warn("a later operation of the PyTorch code overwrites the output of %s, so that hooks that keep it see that operation's result; the module's own output is explained", name)
	return nil
}
