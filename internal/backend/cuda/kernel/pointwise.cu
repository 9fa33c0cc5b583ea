// Functions of one variable, their slopes, and what scales and shifts channels.
#include "elements.cuh"

struct UnaryParams {
    Planes x, y;
    int64 n; // elements of a plane
    int z0;
    float alpha, beta;
    int aligned;
};

// Slopes multiply dy by the derivative at s, the saved input or output.
struct SlopeParams {
    Planes dy, s, dx;
    int64 n;
    int z0;
    float alpha, beta;
    int aligned;
};

template <bool packs, class F> __device__ __forceinline__ void unary(const UnaryParams& p) {
    int z = p.z0 + blockIdx.y;
    const float* x = plane<float>(p.x, z);
    float alpha = p.alpha, beta = p.beta;
    elements<packs>(plane<float>(p.y, z), p.n, p.aligned, [=](int64 i, auto width) {
        auto v = load(x + i, width);
#pragma unroll
        for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = F::of(v.v[k], alpha, beta);
        return v;
    });
}

template <bool packs, class F> __device__ __forceinline__ void slope(const SlopeParams& p) {
    int z = p.z0 + blockIdx.y;
    const float *dy = plane<float>(p.dy, z), *s = plane<float>(p.s, z);
    float alpha = p.alpha, beta = p.beta;
    elements<packs>(plane<float>(p.dx, z), p.n, p.aligned, [=](int64 i, auto width) {
        auto v = load(dy + i, width), at = load(s + i, width);
#pragma unroll
        for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] *= F::of(at.v[k], alpha, beta);
        return v;
    });
}

// UNARY and SLOPE define the kernels of a function; packs is false for those that cost more than the memory accesses.
#define UNARY(packs, name, expression)                                                                        \
    struct name##F {                                                                                          \
        static __device__ __forceinline__ float of(float x, float alpha, float beta) { return expression; }   \
    };                                                                                                        \
    KERNEL(256, unary_##name, UnaryParams) { unary<packs, name##F>(p); }
#define SLOPE(packs, name, expression)                                                                        \
    struct name##D {                                                                                          \
        static __device__ __forceinline__ float of(float s, float alpha, float beta) { return expression; }   \
    };                                                                                                        \
    KERNEL(256, slope_##name, SlopeParams) { slope<packs, name##D>(p); }

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ __forceinline__ float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }

// Comparisons are such that a NaN stays one.
__device__ __forceinline__ float atLeast(float x, float low) { return x < low ? low : x; }
__device__ __forceinline__ float atMost(float x, float high) { return x > high ? high : x; }

// Powers that networks use need no logarithm.
__device__ __forceinline__ float power(float x, float exponent) {
    if (exponent == 0.0f) return 1.0f;
    if (exponent == 1.0f) return x;
    if (exponent == 2.0f) return x * x;
    if (exponent == 3.0f) return x * x * x;
    return powf(x, exponent);
}

// tanh(softplus(x)) = n / (n + 2) with n = e*(e + 2), e = exp(x): no cancelling.
__device__ __forceinline__ float mishNumerator(float x) {
    float e = expf(fminf(x, 20.0f));
    return e * (e + 2.0f);
}
__device__ __forceinline__ float mish(float x) {
    float n = mishNumerator(x);
    return x * (n / (n + 2.0f));
}
__device__ __forceinline__ float mishSlope(float x) {
    float n = mishNumerator(x), t = n / (n + 2.0f);
    return t + x * sigmoid(x) * (2.0f / (n + 2.0f)) * (1.0f + t);
}

__device__ __forceinline__ float normalCDF(float x) { return 0.5f * erfcf(-0.70710678f * x); }

// 0.5*(1 + tanh(u)) = sigmoid(2*u): no cancelling.
__device__ __forceinline__ float geluTanhGate(float x) { return sigmoid(1.5957691f * (x + 0.044715f * x * x * x)); }
__device__ __forceinline__ float geluTanhSlope(float x) {
    float s = geluTanhGate(x);
    return s + x * s * (1.0f - s) * 1.5957691f * (1.0f + 0.134145f * x * x);
}

UNARY(true, Relu, atLeast(x, 0.0f))
UNARY(true, LeakyRelu, x > 0 ? x : alpha * x)
UNARY(true, Clip, atMost(atLeast(x, alpha), beta))
UNARY(true, ThresholdedRelu, x > alpha ? x : 0.0f)
UNARY(true, HardSigmoid, atMost(atLeast(alpha * x + beta, 0.0f), 1.0f))
UNARY(true, Abs, fabsf(x))
UNARY(true, Linear, alpha * x + beta)
UNARY(false, Elu, x > 0 ? x : alpha * expm1f(x))
UNARY(false, Celu, x > 0 ? x : alpha * expm1f(x / alpha))
UNARY(false, Selu, x > 0 ? beta * x : beta * alpha * expm1f(x))
UNARY(true, Sigmoid, sigmoid(x))
UNARY(true, Silu, x / (1.0f + expf(-x)))
UNARY(true, HardSwish, x * atMost(atLeast(x * (1.0f / 6) + 0.5f, 0.0f), 1.0f))
UNARY(true, Mish, mish(x))
UNARY(true, Gelu, x * normalCDF(x))
UNARY(true, GeluTanh, x * geluTanhGate(x))
UNARY(false, Softplus, atLeast(x, 0.0f) + log1pf(expf(-fabsf(x))))
UNARY(true, Softsign, x / (1.0f + fabsf(x)))
UNARY(true, Tanh, tanhf(x))
UNARY(false, Erf, erff(x))
UNARY(true, Exp, expf(x))
UNARY(false, Log, logf(x))
UNARY(true, Sqrt, sqrtf(x))
UNARY(true, Reciprocal, 1.0f / x)
UNARY(false, PowConst, power(x, alpha))
UNARY(false, Sin, sinf(x))
UNARY(false, Cos, cosf(x))
UNARY(true, Floor, floorf(x))
UNARY(true, Ceil, ceilf(x))
UNARY(true, Round, rintf(x))
UNARY(true, Sign, sign(x))

SLOPE(true, Abs, sign(s))
SLOPE(true, Linear, alpha)
SLOPE(false, Elu, s > 0 ? 1.0f : alpha * expf(s))
SLOPE(false, Celu, s > 0 ? 1.0f : expf(s / alpha))
SLOPE(false, Selu, s > 0 ? beta : beta * alpha * expf(s))
SLOPE(true, Sigmoid, s * (1.0f - s))
SLOPE(true, Silu, sigmoid(s) * (1.0f + s * (1.0f - sigmoid(s))))
SLOPE(true, HardSwish, s <= -3 ? 0.0f : s >= 3 ? 1.0f : s * (1.0f / 3) + 0.5f)
SLOPE(true, Mish, mishSlope(s))
SLOPE(true, Gelu, normalCDF(s) + s * expf(-0.5f * s * s) * 0.39894228f)
SLOPE(true, GeluTanh, geluTanhSlope(s))
SLOPE(true, Softplus, sigmoid(s))
SLOPE(true, Softsign, 1.0f / ((1.0f + fabsf(s)) * (1.0f + fabsf(s))))
SLOPE(true, Tanh, 1.0f - s * s)
SLOPE(false, Erf, 1.12837917f * expf(-s * s))
SLOPE(true, Exp, s)
SLOPE(false, Log, 1.0f / s)
SLOPE(true, Sqrt, 0.5f / s)
SLOPE(true, Reciprocal, -s * s)
SLOPE(false, PowConst, alpha == 0 ? 0.0f : alpha * power(s, beta)) // beta is alpha - 1
SLOPE(false, Sin, cosf(s))
SLOPE(false, Cos, -sinf(s))

struct AffineParams {
    Planes x, scale, shift, y;
    Rows rows;
    int z0;
};

KERNEL(256, affine, AffineParams) {
    int z = p.z0 + blockIdx.y;
    const float *x = plane<float>(p.x, z), *scale = plane<float>(p.scale, z), *shift = plane<float>(p.shift, z);
    rows<true>(plane<float>(p.y, z), p.rows, [=](int channel, auto width) {
        auto factor = load(scale + channel, width), term = load(shift + channel, width);
        return [=](int64 i, int) {
            auto v = load(x + i, width);
#pragma unroll
            for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = v.v[k] * factor.v[k] + term.v[k];
            return v;
        };
    });
}
