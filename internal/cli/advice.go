package cli

import (
	"github.com/voxcam/voxcam/internal/option"
)

// flags are the flags of the options that the packages below name in errors and notes.
var flags = map[string]string{
	"conventions":   "--convention",
	"input_axes":    "--input-axes",
	"layer_layout":  "--layer-layout",
	"memory_budget": "--memory-budget",
	"methods":       "--method",
	"n_samples":     "--n-samples",
	"noise_level":   "--noise-level",
	"precision":     "--precision",
	"prefix_tokens": "--prefix-tokens",
	"target_class":  "--target-class",
	"target_layer":  "--target-layer",
	"token_grid":    "--token-grid",
	"volume_shape":  "--volume-shape",
}

func flagOf(option string) (flag string, ok bool) {
	flag, ok = flags[option]
	return flag, ok
}

// inFlags is a text with the flags of the options that it mentions.
func inFlags(text string) string { return option.Rename(text, flagOf) }
