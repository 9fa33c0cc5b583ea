package config

import (
	"fmt"
	"slices"
	"strings"
)

// originalClasses are the grades that the original system knows.
var originalClasses = []string{"Normal", "Early AMD", "Intermediate AMD", "Advanced AMD"}

// originalKeys maps the keys of the original system's config_3d.toml that have a meaning here to our keys. All others are listed in one
// notice: most had no effect in the original either, the rest concern training.
var originalKeys = []originalKey{
	{"DataModule.data_path", true, "data.folder"},
	{"DataModule.label_path", true, "data.labels"},
	{"DataModule.n_class", false, "model.classes"},
	{"DataModule.image_shape", true, "data.image_shape"},
	{"DataModule.split_ratio", false, "data.split_ratio"},
	{"NetModule.backbone_name", false, "model.name"},
}

type originalKey struct {
	name     string
	required bool
	key      string
}

// setOriginalClasses takes the number of classes in place of their names.
func (c *Config) setOriginalClasses(v any) error {
	n, ok := v.(int64)
	if !ok || n < 1 || n > 1<<20 {
		return wrongType(v, "a positive integer")
	}
	c.Model.NumClasses = int(n)
	if int(n) == len(originalClasses) {
		c.Model.Classes = slices.Clone(originalClasses)
	}
	return nil
}

// fillOriginal sets the fields from the original system's file, with the values that are fixed in its code: volumes are the variable
// imgMat of .mat files in the order D, H, W and are divided by 255. Paths stay relative to the working directory.
func (c *Config) fillOriginal(doc *document) []Complaint {
	c.Data.Extension, c.Data.Variable, c.Data.Axes, c.Data.Scale = ".mat", "imgMat", "DHW", "div255"
	var complaints []Complaint
	var ignored []string
	seen := map[string]bool{}
	for _, e := range doc.values {
		name := e.name()
		i := slices.IndexFunc(originalKeys, func(row originalKey) bool { return row.name == name })
		if i < 0 {
			ignored = append(ignored, name)
			continue
		}
		k := c.key(originalKeys[i].key)
		if k.name == "model.classes" {
			k.value.set = c.setOriginalClasses
		}
		seen[name] = true
		c.lines[k.name] = e.line
		if err := k.set(e.value); err != nil {
			complaints = append(complaints, Complaint{Line: e.line, Key: name, Text: err.Error()})
		}
	}
	for _, row := range originalKeys {
		if row.required && !seen[row.name] {
			complaints = append(complaints, Complaint{Key: row.name, Text: "is missing"})
		}
	}
	if len(ignored) > 0 {
		c.Notices = append(c.Notices, fmt.Sprintf("%s is the original system's configuration; %d of its keys have no effect here: %s",
			c.Path, len(ignored), strings.Join(ignored, ", ")))
	}
	return complaints
}
