// Weighted sums over positions that are products over the axes: interpolation, and the gradients of what reads a position often.
#include "device.cuh"

// Terms lists, for each position along an axis of the output, positions of the input and their weights.
struct Terms {
    const int* first; // the list of position i is [first[i], first[i+1])
    const int* at;    // planes of x, or offsets in elements
    const float* weight;
};

struct ResizeParams {
    Planes x, y;
    Terms planes, high, wide, deep;
    Divide inner, dimDeep, dimWide; // elements or vectors that move as one, sizes of the two innermost axes
    int n, z0;                      // elements or vectors of a plane
    int pad;
};

template <int width, class T> struct Lanes { T v[width]; };

template <int width, class T> __device__ __forceinline__ void add(Lanes<width, T>& sum, T weight, const Lanes<width, T>& x) {
#pragma unroll
    for (int k = 0; k < width; k++) sum.v[k] += weight * x.v[k];
}

template <class T> __device__ __forceinline__ void addValue(Lanes<4, T>& sum, T weight, const float* x) {
    float4 v = *reinterpret_cast<const float4*>(x);
    sum.v[0] += weight * v.x, sum.v[1] += weight * v.y, sum.v[2] += weight * v.z, sum.v[3] += weight * v.w;
}
template <class T> __device__ __forceinline__ void addValue(Lanes<1, T>& sum, T weight, const float* x) { sum.v[0] += weight * *x; }

template <class T> __device__ __forceinline__ void store(float* y, const Lanes<4, T>& v) {
    *reinterpret_cast<float4*>(y) = make_float4((float)v.v[0], (float)v.v[1], (float)v.v[2], (float)v.v[3]);
}
template <class T> __device__ __forceinline__ void store(float* y, const Lanes<1, T>& v) { *y = (float)v.v[0]; }

// T is the type of the sums.
template <int width, class T> __device__ __forceinline__ void resize(const ResizeParams& p) {
    int z = p.z0 + blockIdx.y, i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.n) return;
    uint32 k, d, w, h = p.inner.split(i, k);
    h = p.dimDeep.split(h, d);
    h = p.dimWide.split(h, w);
    int h0 = p.high.first[h], h1 = p.high.first[h + 1], w0 = p.wide.first[w], w1 = p.wide.first[w + 1];
    int d0 = p.deep.first[d], d1 = p.deep.first[d + 1], z1 = p.planes.first[z + 1];
    Lanes<width, T> sum = {};
    for (int a = p.planes.first[z]; a < z1; a++) {
        const float* x = plane<float>(p.x, p.planes.at[a]) + k * width;
        Lanes<width, T> plane = {};
        for (int b = h0; b < h1; b++) {
            Lanes<width, T> row = {};
            const float* atRow = x + p.high.at[b];
            for (int c = w0; c < w1; c++) {
                const float* at = atRow + p.wide.at[c];
                T weight = p.wide.weight[c];
                for (int e = d0; e < d1; e++) addValue(row, weight * (T)p.deep.weight[e], at + p.deep.at[e]);
            }
            add(plane, (T)p.high.weight[b], row);
        }
        add(sum, (T)p.planes.weight[a], plane);
    }
    store(plane<float>(p.y, z) + (int64)i * width, sum);
}

KERNEL(256, resize_1, ResizeParams) { resize<1, float>(p); }
KERNEL(256, resize_4, ResizeParams) { resize<4, float>(p); }
KERNEL(256, resize_precise_1, ResizeParams) { resize<1, double>(p); }
KERNEL(256, resize_precise_4, ResizeParams) { resize<4, double>(p); }
