// Kernels that try the simulator and the driver's calls.
#include "device.cuh"

struct Scale {
    float* at;
    float by;
    int n;
};

KERNEL(256, probe_scale, Scale) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.at[i] *= p.by;
}

struct Sum {
    const float* in;
    float* out;
    int n;
};

// probe_sum adds n numbers of each block by shuffles and shared memory.
KERNEL(256, probe_sum, Sum) {
    __shared__ float part[8];
    float sum = 0;
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) sum += p.in[(int64)blockIdx.x * p.n + i];
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f;
        for (int d = 4; d > 0; d /= 2) sum += __shfl_down_sync(0xffffffffu, sum, d);
        if (threadIdx.x == 0) p.out[blockIdx.x] = sum;
    }
}

struct Reverse {
    int* at;
    int n;
    int pad;
};

// probe_reverse reverses n numbers through dynamic shared memory.
KERNEL(1024, probe_reverse, Reverse) {
    DYNAMIC_SHARED(int, tile);
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) tile[i] = p.at[i];
    __syncthreads();
    for (int i = threadIdx.x; i < p.n; i += blockDim.x) p.at[i] = tile[p.n - 1 - i];
}

struct Wrong {
    float* at;
    int how;
    int pad;
};

// probe_wrong does what kernels must not do.
KERNEL(64, probe_wrong, Wrong) {
    __shared__ float tile[64];
    switch (p.how) {
    case 0: // not all reach the barrier
        if (threadIdx.x > 3) __syncthreads();
        break;
    case 1: // memory that is not mapped
        p.at[1 << 30] = 1;
        break;
    case 2: // a vector at an address for a number
        if (threadIdx.x == 1) *reinterpret_cast<float4*>(p.at + 1) = make_float4(0, 0, 0, 0);
        break;
    case 3: // an index out of range
        tile[threadIdx.x + 1] = 1;
        __syncthreads();
        p.at[threadIdx.x] = tile[threadIdx.x];
        break;
    case 4: // shared memory that was not written
        if (threadIdx.x < 32) tile[threadIdx.x] = 1;
        __syncthreads();
        p.at[threadIdx.x] = tile[threadIdx.x];
        break;
    case 5: // lanes that are not there
        if (threadIdx.x % 32 < 16) p.at[threadIdx.x] = __shfl_sync(0xffffffffu, p.at[threadIdx.x], 0);
        break;
    case 6: // past the end of the dynamic shared memory
        DYNAMIC_SHARED(float, dynamic);
        dynamic[32 + threadIdx.x] = 1;
        p.at[0] = dynamic[33];
        break;
    }
}

struct Warp {
    int* at;
};

// probe_warp shows what the instructions of warps give.
KERNEL(40, probe_warp, Warp) {
    int lane = threadIdx.x % 32, *at = p.at + threadIdx.x * 8;
    at[0] = __shfl_up_sync(0xffffffffu, lane, 3);
    at[1] = __shfl_down_sync(0xffffffffu, lane, 3, 8);
    at[2] = __shfl_xor_sync(0xffffffffu, lane, 5);
    at[3] = (int)__ballot_sync(0xffffffffu, lane & 1);
    at[4] = __any_sync(0xffffffffu, lane == 7);
    at[5] = __all_sync(0xffffffffu, lane < 7);
    at[6] = __syncthreads_count(threadIdx.x % 3 == 0);
    atomicAdd(&p.at[7], 1);
    if (lane < 8) at[0] += __shfl_sync(0xffu, lane, 7) * 100;
}
