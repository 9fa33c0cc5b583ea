// How elementwise kernels go through a plane: in packs of four numbers where everything is aligned to 16 bytes, else one by one.
#pragma once
#include "device.cuh"

template <int n> struct Width {};
template <int n> struct Pack {
    float v[n];
};

__device__ __forceinline__ Pack<1> load(const float* p, Width<1>) { return {{*p}}; }
__device__ __forceinline__ Pack<4> load(const float* p, Width<4>) {
    float4 v = *reinterpret_cast<const float4*>(p);
    return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void store(float* p, Pack<1> v) { *p = v.v[0]; }
__device__ __forceinline__ void store(float* p, Pack<4> v) {
    *reinterpret_cast<float4*>(p) = make_float4(v.v[0], v.v[1], v.v[2], v.v[3]);
}

enum { elementThreads = 256, elementBlock = 2048 }; // threads, and elements that they make

// elements computes y[i] = f(i) for the part of n elements that belongs to the block. F takes an index and the width of the pack
// that begins there. All loads of a thread come before its stores, which the compiler could not arrange where y is computed in place.
template <bool packs, class F> __device__ __forceinline__ void elements(float* y, int64 n, bool aligned, F f) {
    int64 from = (int64)blockIdx.x * elementBlock;
    if constexpr (packs) if (aligned) {
        const int step = elementThreads * 4, count = elementBlock / step;
        Pack<4> v[count];
        from += threadIdx.x * 4;
#pragma unroll
        for (int k = 0; k < count; k++)
            if (from + k * step + 4 <= n) v[k] = f(from + k * step, Width<4>());
#pragma unroll
        for (int k = 0; k < count; k++)
            if (from + k * step + 4 <= n) store(y + from + k * step, v[k]);
        int64 rest = n / 4 * 4 + threadIdx.x;
        if (rest < n && rest / elementBlock == blockIdx.x) store(y + rest, f(rest, Width<1>()));
        return;
    }
    const int count = 4;
    from += threadIdx.x;
#pragma unroll 1
    for (int half = 0; half < elementBlock / elementThreads / count; half++, from += count * elementThreads) {
        Pack<1> v[count];
#pragma unroll
        for (int k = 0; k < count; k++)
            if (from + k * elementThreads < n) v[k] = f(from + k * elementThreads, Width<1>());
#pragma unroll
        for (int k = 0; k < count; k++)
            if (from + k * elementThreads < n) store(y + from + k * elementThreads, v[k]);
    }
}

// Rows is how blocks go through a matrix [rows, channels]: each takes a tile of the channels, and lanes rows at a time, so that
// a thread stays at its channels. A row has packs packs, of four channels where everything is aligned, else of one.
struct Rows {
    int rows, packs;
    Divide tiles, tile; // tiles of a row, packs of a tile
    int lanes, aligned;
};

enum { rowsAtOnce = 4 }; // of each lane

// rows computes y = f(row) for the block's part. Prepare is given a channel and the width of the pack that begins there, and returns f,
// which is given an offset into the matrix and the row. Where packs is false, r must not be aligned.
template <int n, class Prepare> __device__ __forceinline__ void rows_of(float* y, const Rows& r, Prepare prepare) {
    uint32 tile, pack, block = r.tiles.split(blockIdx.x, tile), lane = r.tile.split(threadIdx.x, pack);
    pack += tile * r.tile.divisor;
    if (lane >= r.lanes || pack >= r.packs) return;
    int row = block * (r.lanes * rowsAtOnce) + lane, step = r.lanes;
    int64 at = (int64)row * r.packs * n + pack * n, stride = (int64)step * r.packs * n;
    auto f = prepare((int)pack * n, Width<n>());
    Pack<n> v[rowsAtOnce];
#pragma unroll
    for (int k = 0; k < rowsAtOnce; k++)
        if (row + k * step < r.rows) v[k] = f(at + k * stride, row + k * step);
#pragma unroll
    for (int k = 0; k < rowsAtOnce; k++)
        if (row + k * step < r.rows) store(y + at + k * stride, v[k]);
}
template <bool packs, class Prepare> __device__ __forceinline__ void rows(float* y, const Rows& r, Prepare prepare) {
    if constexpr (packs) if (r.aligned) return rows_of<4>(y, r, prepare);
    rows_of<1>(y, r, prepare);
}

// Broadcast finds the elements of tensors that broadcast to one shape: axes from the innermost on, strides in elements, 0 where a
// tensor stretches.
struct Broadcast {
    int axes;
    Divide size[8];
    int stride[3][8];

    __device__ __forceinline__ void offsets(uint32 i, int count, int64* at) const {
        for (int k = 0; k < count; k++) at[k] = 0;
        for (int a = 0; a < axes; a++) {
            uint32 rest;
            i = size[a].split(i, rest);
            for (int k = 0; k < count; k++) at[k] += (int64)rest * stride[k][a];
        }
    }
    __device__ __forceinline__ int64 offset(uint32 i) const {
        int64 at;
        offsets(i, 1, &at);
        return at;
    }
};
