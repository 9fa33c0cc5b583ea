// Command voxcam explains the decisions of 3D image classifiers.
package main

import "github.com/voxcam/voxcam/internal/cli"

func main() { cli.Main() }
