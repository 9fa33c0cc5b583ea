package cli

import (
	"strings"

	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/option"
)

// flags are the flags of the options that the packages below name in errors and notes.
var flags = map[string]string{
	"against":       "--against",
	"axes":          "--axes (data.axes in a configuration)",
	"baseline":      "--baseline",
	"conventions":   "--convention",
	"input":         "--input",
	"input_axes":    "--input-axes",
	"layer_layout":  "--layer-layout",
	"memory_budget": "--memory-budget",
	"methods":       "--method",
	"n_samples":     "--n-samples",
	"noise_level":   "--noise-level",
	"output":        "--output",
	"pid":           "--pid",
	"precision":     "--precision",
	"prefix_tokens": "--prefix-tokens",
	"quadrature":    "--quadrature",
	"score":         "--score",
	"session":       "--session",
	"steps":         "--steps",
	"target_class":  "--target-class",
	"target_region": "--target-region",
	"target_layer":  "--target-layer",
	"task":          "--task",
	"token_grid":    "--token-grid",
	"volume_shape":  "--volume-shape",
	"worker":        "--worker",
}

func flagOf(option string) (flag string, ok bool) {
	flag, ok = flags[option]
	return flag, ok
}

// commands adds to advice of the packages below which command helps.
var commands = strings.NewReplacer(
	layer.ListsAll, "voxcam inspect lists all",
	device.WithoutGPU, device.WithoutGPU+", and voxcam doctor says what was found",
	"until it is told to resume", "until voxcam recover --resume",
	"model.file is missing", "model.file is missing (or --model)",
	"output.dir is missing", "output.dir is missing (or --output-dir)",
	"model.target_class: class ", "model.target_class (or --target-class): class ",
	"model.target_class: no class ", "model.target_class (or --target-class): no class ",
	"choose another session", "choose another --session",
	"without cuDNN, which can be faster", "without cuDNN, which can be faster (voxcam doctor says how to install it)",
)

// inFlags is a text for people at a command line: with flags for the options that it mentions, and with commands.
func inFlags(text string) string { return commands.Replace(option.Rename(text, flagOf)) }
