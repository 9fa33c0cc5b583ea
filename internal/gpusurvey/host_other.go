//go:build !linux

package gpusurvey

func hostTotal() int { return 0 }
