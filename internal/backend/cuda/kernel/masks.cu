// Bits that say on which side of a kink a value was, and what chooses by them.
#include "elements.cuh"

struct BitsParams {
    Planes x, y; // y: bit i%32 of word i/32
    int64 n;
    int z0;
    float lo, hi;
};

// bits makes a word a warp and vote, eight of them for each warp.
KERNEL(256, bits, BitsParams) {
    int z = p.z0 + blockIdx.y, lane = threadIdx.x % 32;
    const float* x = plane<float>(p.x, z);
    int64 from = (int64)blockIdx.x * elementBlock + threadIdx.x / 32 * 256;
    float v[8];
    uint32 mine = 0;
#pragma unroll
    for (int k = 0; k < 8; k++) {
        int64 i = from + k * 32 + lane;
        v[k] = i < p.n ? x[i] : p.lo;
    }
#pragma unroll
    for (int k = 0; k < 8; k++) {
        uint32 word = __ballot_sync(0xffffffff, p.lo < v[k] && v[k] < p.hi);
        if (lane == k) mine = word;
    }
    if (lane < 8 && from + lane * 32 < p.n) plane<uint32>(p.y, z)[from / 32 + lane] = mine;
}

struct MaskParams {
    Planes dy, bits, dx;
    int64 n;
    int z0;
    float in, out; // slopes
    int aligned;
};

KERNEL(256, mask_backward, MaskParams) {
    int z = p.z0 + blockIdx.y;
    const float* dy = plane<float>(p.dy, z);
    const uint32* words = plane<uint32>(p.bits, z);
    float in = p.in, out = p.out;
    elements<true>(plane<float>(p.dx, z), p.n, p.aligned, [=](int64 i, auto width) {
        auto v = load(dy + i, width);
        uint32 word = words[i / 32] >> (i % 32);
#pragma unroll
        for (int k = 0; k < sizeof(v) / 4; k++) {
            float off = out == 0 ? 0.0f : v.v[k] * out; // a slope of zero lets nothing through, not even infinity
            v.v[k] = word >> k & 1 ? v.v[k] * in : off;
        }
        return v;
    });
}

struct PReluBackwardParams {
    Planes dy, bits, slope, dx;
    int64 n;
    int z0;
    Broadcast broadcast; // of slope
};

KERNEL(256, prelu_backward, PReluBackwardParams) {
    int z = p.z0 + blockIdx.y;
    const float *dy = plane<float>(p.dy, z), *slope = plane<float>(p.slope, z);
    const uint32* words = plane<uint32>(p.bits, z);
    elements<false>(plane<float>(p.dx, z), p.n, false, [&](int64 i, auto width) {
        auto v = load(dy + i, width);
        if (!(words[i / 32] >> (i % 32) & 1)) v.v[0] *= slope[p.broadcast.offset((uint32)i)];
        return v;
    });
}

struct WhereParams {
    Planes condition, x, y, out;
    int64 n;
    int z0;
    Broadcast broadcast; // of condition, x and y
};

KERNEL(256, where, WhereParams) {
    int z = p.z0 + blockIdx.y;
    const float *condition = plane<float>(p.condition, z), *x = plane<float>(p.x, z), *y = plane<float>(p.y, z);
    elements<false>(plane<float>(p.out, z), p.n, false, [&](int64 i, auto) {
        int64 at[3];
        p.broadcast.offsets((uint32)i, 3, at);
        return Pack<1>{{condition[at[0]] != 0 ? x[at[1]] : y[at[2]]}};
    });
}
