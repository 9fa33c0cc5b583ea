// Package harm does harm to runs of the program on a simulated GPU, and compares their results with those of an undisturbed run. It is for
// tests only: those of the packages below, whose TestMain calls Main. With VOXCAM_LONG=1 they do as much harm as the memory manager must
// survive; else a part of it.
package harm
