// Functions of two variables, the second of which may stretch.
#include "elements.cuh"

// The functions of kernels *_Other, as in binary.go.
enum { SUB, REVERSE_SUB, DIV, REVERSE_DIV, POW, REVERSE_POW, MAX, MIN, GREATER, GREATER_OR_EQUAL, LESS, LESS_OR_EQUAL, EQUAL, PRELU };

struct AddF {
    static __device__ __forceinline__ float of(int, float x, float y) { return x + y; }
};
struct MulF {
    static __device__ __forceinline__ float of(int, float x, float y) { return x * y; }
};
struct OtherF {
    static __device__ __forceinline__ float of(int function, float x, float y) {
        switch (function) {
        case SUB: return x - y;
        case REVERSE_SUB: return y - x;
        case DIV: return x / y;
        case REVERSE_DIV: return y / x;
        case POW:
        case REVERSE_POW: return powf(function == POW ? x : y, function == POW ? y : x);
        case MAX: return x > y || x != x ? x : y; // a NaN stays one
        case MIN: return x < y || x != x ? x : y;
        case GREATER: return x > y;
        case GREATER_OR_EQUAL: return x >= y;
        case LESS: return x < y;
        case LESS_OR_EQUAL: return x <= y;
        case EQUAL: return x == y;
        default: return x > 0 ? x : x * y; // PRELU
        }
    }
};

struct PairParams {
    Planes x, y, out;
    int64 n; // elements of a plane
    int z0, function, aligned;
    int one; // y is a single number
    Broadcast broadcast;
};

// pairs has two operands of the same shape, or a number as the second one.
template <class F, bool packs> __device__ __forceinline__ void pairs(const PairParams& p) {
    int z = p.z0 + blockIdx.y, function = p.function;
    const float *x = plane<float>(p.x, z), *y = plane<float>(p.y, z);
    float* out = plane<float>(p.out, z);
    if (p.one) {
        float c = *y;
        elements<packs>(out, p.n, p.aligned, [=](int64 i, auto width) {
            auto v = load(x + i, width);
#pragma unroll
            for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = F::of(function, v.v[k], c);
            return v;
        });
        return;
    }
    elements<packs>(out, p.n, p.aligned, [=](int64 i, auto width) {
        auto v = load(x + i, width), w = load(y + i, width);
#pragma unroll
        for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = F::of(function, v.v[k], w.v[k]);
        return v;
    });
}

KERNEL(256, pairs_Add, PairParams) { pairs<AddF, true>(p); }
KERNEL(256, pairs_Mul, PairParams) { pairs<MulF, true>(p); }
KERNEL(256, pairs_Other, PairParams) { pairs<OtherF, false>(p); }

// pairs_broadcast has operands that stretch in any way.
template <class F> __device__ __forceinline__ void pairs_broadcast(const PairParams& p) {
    int z = p.z0 + blockIdx.y;
    const float *x = plane<float>(p.x, z), *y = plane<float>(p.y, z);
    elements<false>(plane<float>(p.out, z), p.n, false, [&](int64 i, auto) {
        int64 at[2];
        p.broadcast.offsets((uint32)i, 2, at);
        return Pack<1>{{F::of(p.function, x[at[0]], y[at[1]])}};
    });
}

KERNEL(256, pairs_broadcast_Add, PairParams) { pairs_broadcast<AddF>(p); }
KERNEL(256, pairs_broadcast_Mul, PairParams) { pairs_broadcast<MulF>(p); }
KERNEL(256, pairs_broadcast_Other, PairParams) { pairs_broadcast<OtherF>(p); }

struct RowPairParams {
    Planes x, y, out;
    Rows rows;
    int z0, function;
    int map; // y has a number for each row; else one for each channel of each matrix
};

// pairs_rows has matrices [rows, channels], one for each blockIdx.z, as first operand.
template <class F, bool packs> __device__ __forceinline__ void pairs_rows(const RowPairParams& p) {
    int z = p.z0 + blockIdx.y, function = p.function;
    int channels = p.rows.packs * (p.rows.aligned ? 4 : 1);
    int64 matrix = (int64)blockIdx.z * p.rows.rows;
    const float *x = plane<float>(p.x, z) + matrix * channels, *y = plane<float>(p.y, z);
    float* out = plane<float>(p.out, z) + matrix * channels;
    if (p.map) {
        y += matrix;
        rows<packs>(out, p.rows, [=](int, auto width) {
            return [=](int64 i, int row) {
                auto v = load(x + i, width);
                float c = y[row];
#pragma unroll
                for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = F::of(function, v.v[k], c);
                return v;
            };
        });
        return;
    }
    y += (int64)blockIdx.z * channels;
    rows<packs>(out, p.rows, [=](int channel, auto width) {
        auto w = load(y + channel, width);
        return [=](int64 i, int) {
            auto v = load(x + i, width);
#pragma unroll
            for (int k = 0; k < sizeof(v) / 4; k++) v.v[k] = F::of(function, v.v[k], w.v[k]);
            return v;
        };
    });
}

KERNEL(256, pairs_rows_Add, RowPairParams) { pairs_rows<AddF, true>(p); }
KERNEL(256, pairs_rows_Mul, RowPairParams) { pairs_rows<MulF, true>(p); }
KERNEL(256, pairs_rows_Other, RowPairParams) { pairs_rows<OtherF, false>(p); }
