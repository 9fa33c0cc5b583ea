// Sums, means and maxima over axes.
#include "sums.cuh"

KERNEL(256, columns_Sum, ColumnParams) { columns<Sum>(p); }
KERNEL(256, columns_Max, ColumnParams) { columns<Max>(p); }
KERNEL(512, join_Sum, JoinParams) { join<Sum>(p); }
KERNEL(512, join_Max, JoinParams) { join<Max>(p); }
KERNEL(256, join_each_Sum, JoinParams) { join_each<Sum>(p); }
KERNEL(256, join_each_Max, JoinParams) { join_each<Max>(p); }

struct RunParams {
    Planes x, y;
    double factor;
    int z0, runs, size, lanes;
};

// runs reduces runs of size numbers that lie behind each other, each with a power of two of lanes of a warp.
template <class A> __device__ __forceinline__ void runs(const RunParams& p) {
    int z = p.z0 + blockIdx.y, lane = threadIdx.x % p.lanes;
    int64 run = ((int64)blockIdx.x * blockDim.x + threadIdx.x) / p.lanes;
    const float* x = plane<float>(p.x, z) + run * p.size;
    A acc;
    if (run < p.runs) {
        for (int i = lane; i < p.size; i += 4 * p.lanes) {
            float v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = i + k * p.lanes < p.size ? x[i + k * p.lanes] : A::none();
            acc.take4(v, v);
        }
    }
    double total = acc.v[0];
    for (int reach = p.lanes / 2; reach > 0; reach /= 2) total = A::join(total, __shfl_xor_sync(0xffffffff, total, reach));
    if (run < p.runs && lane == 0) plane<float>(p.y, z)[run] = (float)(total * p.factor);
}

KERNEL(256, runs_Sum, RunParams) { runs<Sum>(p); }
KERNEL(256, runs_Max, RunParams) { runs<Max>(p); }

struct EachParams {
    Planes x, y;
    double* state; // if planes are gathered: of each output
    double factor;
    int z0, planes, outputs, count;
    int first, last;   // of what is gathered
    Broadcast kept, reduced; // axes of x
};

// each has a thread for each output, which goes through what is reduced to it; gathered planes one after the other.
template <class A> __device__ __forceinline__ void each(const EachParams& p) {
    int output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output >= p.outputs) return;
    int64 base = p.kept.offset(output);
    int z = p.z0 + blockIdx.y;
    A acc;
    if (p.state && !p.first) acc.v[0] = p.state[output];
    for (int k = 0; k < p.planes; k++) {
        const float* x = plane<float>(p.x, z + k) + base;
        for (int i = 0; i < p.count; i++) acc.take(x[p.reduced.offset(i)]);
    }
    if (p.state) p.state[output] = acc.v[0];
    if (p.last) plane<float>(p.y, p.state ? 0 : z)[output] = (float)(acc.v[0] * p.factor);
}

KERNEL(256, each_Sum, EachParams) { each<Sum>(p); }
KERNEL(256, each_Max, EachParams) { each<Max>(p); }
