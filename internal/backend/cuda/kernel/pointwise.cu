// Elementwise operations.
#include "device.cuh"

struct UnaryParams {
    Planes x, y;
    int n, z0; // elements of a plane, first plane
    float alpha, beta;
};

// unary applies a function to four elements a thread.
template <class F, bool vector> __device__ __forceinline__ void unary(const UnaryParams& p, F f) {
    int z = p.z0 + blockIdx.y, i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    const float* x = plane<float>(p.x, z);
    float* y = plane<float>(p.y, z);
    if (vector && i + 4 <= p.n) {
        float4 v = *reinterpret_cast<const float4*>(x + i);
        v.x = f(v.x, p), v.y = f(v.y, p), v.z = f(v.z, p), v.w = f(v.w, p);
        *reinterpret_cast<float4*>(y + i) = v;
        return;
    }
    for (int k = i; k < i + 4 && k < p.n; k++) y[k] = f(x[k], p);
}

#define UNARY(name, expression)                                                          \
    struct name##F {                                                                     \
        __device__ __forceinline__ float operator()(float x, const UnaryParams& p) const { return expression; } \
    };                                                                                   \
    KERNEL(256, unary_##name, UnaryParams) { unary<name##F, false>(p, name##F()); }      \
    KERNEL(256, unary_##name##_4, UnaryParams) { unary<name##F, true>(p, name##F()); }

UNARY(Linear, p.alpha * x + p.beta)
