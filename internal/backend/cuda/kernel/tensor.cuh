// Convolutions on tensor cores. A class of a convolution (lattice.go) is a matrix product: rows are 64 output channels, columns are
// points of the lattice, 8 along x times some along y, and K is what the taps read. The input of a tile is loaded as boxes: the points
// of the tile and of their neighbours that the taps of a group reach, 128 bytes of channels of each. A tap is then nothing but an offset
// into the box, so that a box is loaded once for all of its taps. Weights come in tiles of 64 rows of 128 bytes, one a step (a tap of a
// group for 128 bytes of channels), in the order in which they are used.
#pragma once
#include "device.cuh"

#define TENSOR_GROUPS 64
#define TENSOR_TAPS 512

// TensorGroup is a set of taps that share boxes. Point (y, x) of a box is input row y0*inStep + y + y*inStep of plane z0*inStep + z and
// element x0*rowStep + x + x*rowStep of it, where (z0, y0, x0) is the tile's first point.
struct TensorGroup {
    int z, y, x;
    int taps, firstTap;
    int firstStep;    // of its steps, the first; they go through its taps for each chunk
    int pitch, lines; // points of a box along x and y
};

struct TensorParams {
    Planes in, out;
    Planes residual;     // of the shape of out, added before the activation; data is null where there is none
    const char* weights; // [64 channels][step] tiles
    const float* bias;   // or null
    int depth, height, width; // of the input; width in elements, channels included
    int stepZ, stepY;         // of the input, from a point to the next
    int rowStep;              // the same along x, in elements
    int run, chunks;          // elements that a tap reads from a row, in chunks of 128 bytes
    int vectors;              // runs can be read by 16 bytes
    int pairs;                // rows of out (and residual) can be accessed by 8 bytes
    int channels, activation; // of out
    int mtiles, steps;        // 64 channels each; tiles of weights for each of them
    int count[3], outStart[3], outStep[3];
    int outWidth;
    int tiles; // for all blocks
    Divide mblocks, tilesX, tilesY;
    int stages, stageBytes; // boxes in shared memory
    int slots;              // tiles of weights in shared memory
    int pointBytes, chunkBytes, swizzle; // where 16 bytes of a point are: point*pointBytes + (k ^ (point & swizzle))*chunkBytes
    int lookahead;          // steps that loads are ahead (mma.sync)
    int groups;
    TensorGroup group[TENSOR_GROUPS];
    uint16 shift[TENSOR_TAPS]; // of each tap: points from the box's first
};

// TensorTile is where a tile begins.
struct TensorTile {
    int m, z, y, x;
};

template <int lines, int points> __device__ __forceinline__ TensorTile tensorTile(const TensorParams& p, int number) {
    TensorTile t;
    uint32 r;
    number = p.mblocks.split(number, r), t.m = r;
    number = p.tilesX.split(number, r), t.x = r * points;
    t.z = p.tilesY.split(number, r), t.y = r * lines;
    return t;
}

// tensorGroup finds the next group from g on whose plane is inside, and the plane.
__device__ __forceinline__ int tensorGroup(const TensorParams& p, int g, int z0, int& z) {
    for (; g < p.groups; g++) {
        z = z0 * p.stepZ + p.group[g].z;
        if ((unsigned)z < (unsigned)p.depth) break;
    }
    return g;
}

#ifdef SIMULATOR
inline float round_tf32(float v) { return v != v ? v : __uint_as_float((__float_as_uint(v) + 0x1000) & ~0x1fffu); }
inline uint32 pack_bf16(float low, float high) {
    auto round = [](float v) { uint32 b = __float_as_uint(v); return v != v ? 0x7fffu : (b + 0x7fff + (b >> 16 & 1)) >> 16; };
    return round(low) | round(high) << 16;
}
#else
// round_tf32 rounds to 10 bits of mantissa.
__device__ __forceinline__ float round_tf32(float v) {
#if __CUDA_ARCH__ >= 800
    uint32 r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
    v = __uint_as_float(r);
#endif
    return v;
}
__device__ __forceinline__ uint32 pack_bf16(float low, float high) {
    uint32 r = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
    return r;
}
#endif

__device__ __forceinline__ float tensorActivate(int activation, float v) {
    if (activation == 1) return v > 0 || v != v ? v : 0.0f;
    if (activation == 2) return v / (1.0f + expf(-v));
    return v;
}

// TensorStore writes what a thread holds of the products: channels c and c+1 of points of the lattice.
struct TensorStore {
    const TensorParams& p;
    int c;
    float bias0, bias1;
    float* out;
    const float* residual;

    __device__ __forceinline__ TensorStore(const TensorParams& p, int c, int z) : p(p), c(c), bias0(0), bias1(0), residual(nullptr) {
        if (p.bias && c < p.channels) bias0 = p.bias[c];
        if (p.bias && c + 1 < p.channels) bias1 = p.bias[c + 1];
        z = p.outStart[0] + z * p.outStep[0];
        out = plane<float>(p.out, z);
        if (p.residual.data) residual = plane<float>(p.residual, z);
    }
    __device__ __forceinline__ void operator()(int y, int x, float v0, float v1) const {
        if (y >= p.count[1] || x >= p.count[2] || c >= p.channels) return;
        int at = ((p.outStart[1] + y * p.outStep[1]) * p.outWidth + p.outStart[2] + x * p.outStep[2]) * p.channels + c;
        v0 += bias0, v1 += bias1;
        bool second = c + 1 < p.channels;
        if (residual) {
            v0 += residual[at];
            if (second) v1 += residual[at + 1];
        }
        if (p.activation) v0 = tensorActivate(p.activation, v0), v1 = tensorActivate(p.activation, v1);
        if (p.pairs) {
            *reinterpret_cast<float2*>(out + at) = make_float2(v0, v1);
        } else {
            out[at] = v0;
            if (second) out[at + 1] = v1;
        }
    }
};
