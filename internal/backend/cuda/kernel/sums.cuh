// Sums over many numbers, in float64 and in an order that depends on shapes alone.
#pragma once
#include "elements.cuh"

// Accumulators take a number of each input at a time. None is what leaves them as they are.
struct Sum {
    enum { inputs = 1, values = 1 };
    double v[1] = {0};
    static __device__ __forceinline__ float none() { return 0.0f; }
    static __device__ __forceinline__ double join(double a, double b) { return a + b; }
    // take4 adds pairs in float32, which the many sums of four even out.
    __device__ __forceinline__ void take4(const float* x, const float*) { v[0] += (double)((x[0] + x[1]) + (x[2] + x[3])); }
    __device__ __forceinline__ void take(float x) { v[0] += (double)x; }
};

struct Max {
    enum { inputs = 1, values = 1 };
    double v[1] = {-INF};
    static __device__ __forceinline__ float none() { return -INF; }
    static __device__ __forceinline__ double join(double a, double b) { return a > b || a != a ? a : b; }
    __device__ __forceinline__ void take4(const float* x, const float*) {
#pragma unroll
        for (int k = 0; k < 4; k++) take(x[k]);
    }
    __device__ __forceinline__ void take(float x) { v[0] = join(v[0], (double)x); }
};

// Moments are the sums of x and of its squares. In float64, whose mantissa holds squares of float32, their difference is good for a
// mean far above the deviation.
struct Moments {
    enum { inputs = 1, values = 2 };
    double v[2] = {0, 0};
    static __device__ __forceinline__ float none() { return 0.0f; }
    static __device__ __forceinline__ double join(double a, double b) { return a + b; }
    __device__ __forceinline__ void take4(const float* x, const float*) {
#pragma unroll
        for (int k = 0; k < 4; k++) v[0] += (double)x[k], v[1] += (double)x[k] * (double)x[k];
    }
};

// Dots are the sums of x and of x*y.
struct Dots {
    enum { inputs = 2, values = 2 };
    double v[2] = {0, 0};
    static __device__ __forceinline__ float none() { return 0.0f; }
    static __device__ __forceinline__ double join(double a, double b) { return a + b; }
    __device__ __forceinline__ void take4(const float* x, const float* y) {
#pragma unroll
        for (int k = 0; k < 4; k++) v[0] += (double)x[k], v[1] += (double)x[k] * (double)y[k];
    }
};

// ColumnParams are of the first kernel of a sum over rows: of each of outer matrices [size, channels] in a plane.
struct ColumnParams {
    Planes x, y;     // y is the second input, if there is one
    Planes out;      // where partial is null and there is one chunk
    double* partial; // [planes][outer][chunks][values][channels]
    double factor;   // of out
    Rows rows;       // rows.rows is chunk rows
    int z0, size, chunk;
    Divide chunks;
};

// columns sums a chunk of the rows of a matrix for a tile of the channels: blockIdx.x = (matrix*chunks + chunk)*tiles + tile.
template <class A, int n> __device__ __forceinline__ void columns_of(const ColumnParams& p, double* shared) {
    uint32 tile, pack, part, block = p.rows.tiles.split(blockIdx.x, tile), lane = p.rows.tile.split(threadIdx.x, pack);
    uint32 matrix = p.chunks.split(block, part), width = p.rows.tile.divisor;
    int z = p.z0 + blockIdx.y, channels = p.rows.packs * n, channel = (pack + tile * width) * n;
    int from = part * p.chunk, to = min(p.size, from + p.chunk), lanes = p.rows.lanes;
    bool active = lane < lanes && channel < channels;
    A acc[n];
    if (active) {
        int64 at = (int64)matrix * p.size * channels + channel;
        const float *x = plane<float>(p.x, z) + at, *y = A::inputs > 1 ? plane<float>(p.y, z) + at : x;
#pragma unroll 1
        for (int row = from + lane; row < to; row += 4 * lanes) {
            Pack<n> v[4], w[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (row + k * lanes < to) {
                    v[k] = load(x + (int64)(row + k * lanes) * channels, Width<n>());
                    if (A::inputs > 1) w[k] = load(y + (int64)(row + k * lanes) * channels, Width<n>());
                } else {
#pragma unroll
                    for (int j = 0; j < n; j++) v[k].v[j] = A::none(), w[k].v[j] = 0.0f;
                }
            }
#pragma unroll
            for (int j = 0; j < n; j++) {
                float a[4] = {v[0].v[j], v[1].v[j], v[2].v[j], v[3].v[j]}, b[4];
                if (A::inputs > 1)
                    for (int k = 0; k < 4; k++) b[k] = w[k].v[j];
                acc[j].take4(a, b);
            }
        }
    }
    // The lanes are joined as a tree.
#pragma unroll
    for (int j = 0; j < n; j++)
#pragma unroll
        for (int k = 0; k < A::values; k++) shared[(k * n + j) * elementThreads + threadIdx.x] = acc[j].v[k];
    int reach = 1;
    while (reach < lanes) reach *= 2;
    for (reach /= 2; reach > 0; reach /= 2) {
        __syncthreads();
        if (lane < reach && lane + reach < lanes) {
#pragma unroll
            for (int j = 0; j < n * A::values; j++) {
                double* s = shared + j * elementThreads + threadIdx.x;
                *s = A::join(*s, s[reach * width]);
            }
        }
    }
    if (!active || lane > 0) return;
    double* partial = p.partial + (((int64)blockIdx.y * (gridDim.x / (p.chunks.divisor * p.rows.tiles.divisor)) + matrix) * p.chunks.divisor + part) * A::values * channels;
#pragma unroll
    for (int j = 0; j < n; j++)
#pragma unroll
        for (int k = 0; k < A::values; k++) {
            double total = shared[(k * n + j) * elementThreads + threadIdx.x];
            if (p.partial) partial[k * channels + channel + j] = total;
            else plane<float>(p.out, z)[(int64)matrix * channels + channel + j] = (float)(total * p.factor);
        }
}
template <class A> __device__ __forceinline__ void columns(const ColumnParams& p) {
    __shared__ double shared[elementThreads * 4 * A::values];
    if (p.rows.aligned) columns_of<A, 4>(p, shared);
    else columns_of<A, 1>(p, shared);
}

// JoinParams are of the kernel that joins what columns found, [planes][outer][chunks][width], for each of outputs = outer*width.
struct JoinParams {
    const double* partial;
    double* state; // [outputs], null if each plane has outputs of its own
    Planes y;      // null data where the state is all that is wanted
    double factor;
    int z0, planes, chunks, outputs;
    Divide width;
    int first, last; // the state begins, and is complete, with these planes
};

enum { joinThreads = 512, joinColumns = 8, joinPlanes = joinThreads / joinColumns };

template <class A> __device__ __forceinline__ double join_chunks(const JoinParams& p, int plane, int output) {
    uint32 column, outer = p.width.split(output, column);
    int width = p.width.divisor;
    const double* at = p.partial + ((int64)plane * (p.outputs / width) + outer) * p.chunks * width + column;
    double total = at[0];
#pragma unroll 8
    for (int k = 1; k < p.chunks; k++) total = A::join(total, at[(int64)k * width]);
    return total;
}

// join adds planes to the state, one after the other.
template <class A> __device__ __forceinline__ void join(const JoinParams& p) {
    __shared__ double shared[joinThreads];
    int column = threadIdx.x % joinColumns, lane = threadIdx.x / joinColumns, output = blockIdx.x * joinColumns + column;
    double total = p.first || output >= p.outputs ? A().v[0] : p.state[output];
    for (int z = 0; z < p.planes; z += joinPlanes) {
        if (z + lane < p.planes && output < p.outputs) shared[threadIdx.x] = join_chunks<A>(p, z + lane, output);
        __syncthreads();
        if (lane == 0)
            for (int k = 0; k < joinPlanes && z + k < p.planes; k++) total = A::join(total, shared[k * joinColumns + column]);
        __syncthreads();
    }
    if (lane > 0 || output >= p.outputs) return;
    p.state[output] = total;
    if (p.last && p.y.data) plane<float>(p.y, 0)[output] = (float)(total * p.factor);
}

// join_each makes the outputs of each plane.
template <class A> __device__ __forceinline__ void join_each(const JoinParams& p) {
    int output = blockIdx.x * blockDim.x + threadIdx.x;
    if (output < p.outputs) plane<float>(p.y, p.z0 + blockIdx.y)[output] = (float)(join_chunks<A>(p, blockIdx.y, output) * p.factor);
}
