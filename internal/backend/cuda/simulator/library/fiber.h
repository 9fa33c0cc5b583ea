// How a kernel runs.
#pragma once

#include "simulator.h"

namespace simulator {

// first is the table of kernels, as a list.
Kernel* first();

// start prepares the threads of the system that run blocks.
void start();

// launch runs all blocks of a kernel and gives 0 or the error of the first block that failed, which it has also printed.
int launch(Kernel& kernel, dim3 grid, dim3 threads, size_t shared, const void* params);

} // namespace simulator
