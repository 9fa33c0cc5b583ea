// Package harm does harm to runs of the program on a simulated GPU, and compares what comes out with a run that was left alone. It is for
// tests only: those of the packages below, whose TestMain calls Main. With VOXCAM_LONG=1 they do as much of it as the memory manager is to
// stand; else a part.
package harm
