// Depthwise convolutions and their gradients: each channel has a window of its own. A lane is a channel, so that loads and stores are
// whole lines, and a thread makes a tile of outputs of it in registers. Blocks march along depth: an input plane is read once, and added
// to all outputs whose windows it is in. Neighbouring tiles share their borders through the first-level cache.
#include "conv.cuh"

struct DepthwiseParams {
    Planes x, y;          // what is read and written: a gradient reads dy and writes dx
    Planes residual;      // added before the activation; data is null where there is none
    const float* weights; // [tap][channels]
    const float* bias;    // null where there is none
    int in[3], out[3];    // depth, height, width
    int before[3];        // padding
    int channels;
    int z0, z1;      // output planes
    int origin[3];   // of a gradient with strides (see below)
    int shift[3], phase;
    int chunk;       // outputs along depth, or coarse points, of a block
    int laneShift;   // a block covers 1 << laneShift channels,
    int columnShift; // and 1 << columnShift tiles along the width
    int blocks;      // along the width
    int activation;
    // The kernels for any window only:
    int kernel[3], stride[3], dilation[3];
    int plane; // outputs of a plane, channels included
    Divide byChannels, byWidth;
};

#ifdef SIMULATOR
#define RESIDENT(blocks, name) KERNEL(128, name, DepthwiseParams)
#define FORGET(v)
#else
// FORGET(v) makes the compiler compute anew what follows from v, instead of keeping it in registers around the loop.
#define FORGET(v) asm volatile("" : "+r"(v))
// RESIDENT(blocks, name) is a kernel that leaves room for so many blocks on a multiprocessor.
#define RESIDENT(blocks, name) extern "C" __global__ void __launch_bounds__(128, blocks) name(const __grid_constant__ DepthwiseParams p)
#endif

static const int threads = 128;
static const int lanes = 32; // the most channels of a block

// store finishes a tile of sums at (z, y, x) and writes what lies inside of the plane.
template <int rows, int columns>
__device__ __forceinline__ void store(const DepthwiseParams& p, float (&tile)[rows][columns], float bias, int z, int y, int x, int channel) {
    int height = p.out[1], width = p.out[2], channels = p.channels;
    FORGET(y);
    FORGET(channels);
    int at = (y * width + x) * channels + channel, pitch = width * channels;
#define EACH(statement)                                                      \
    _Pragma("unroll") for (int r = 0; r < rows; r++) {                       \
        if ((unsigned)(y + r) >= (unsigned)height) continue;                 \
        _Pragma("unroll") for (int c = 0; c < columns; c++)                  \
            if ((unsigned)(x + c) < (unsigned)width) statement;              \
    }
    if (p.residual.data) {
        const float* other = plane<const float>(p.residual, z);
        EACH(tile[r][c] += other[at + r * pitch + c * channels])
    }
#pragma unroll
    for (int r = 0; r < rows; r++)
#pragma unroll
        for (int c = 0; c < columns; c++) tile[r][c] += bias;
    if (p.activation != NONE)
#pragma unroll
        for (int r = 0; r < rows; r++)
#pragma unroll
            for (int c = 0; c < columns; c++) tile[r][c] = activate(p.activation, tile[r][c]);
    float* to = plane<float>(p.y, z);
    EACH(to[at + r * pitch + c * channels] = tile[r][c])
#undef EACH
}

// Spot is what a thread works on: a channel, and a tile of the plane.
struct Spot {
    int channel, row, column; // tile coordinates
};

// stage copies the weights of the block's channels to shared memory, and finds the thread's spot.
template <int taps> __device__ __forceinline__ Spot stage(const DepthwiseParams& p, float* weights) {
    int lane = threadIdx.x & ((1 << p.laneShift) - 1), tile = threadIdx.x >> p.laneShift;
    Spot s;
    s.channel = (blockIdx.x << p.laneShift) + lane;
    bool there = s.channel < p.channels;
    const float* from = p.weights + (there ? s.channel : 0);
    for (int tap = tile; tap < taps; tap += threads >> p.laneShift) copy_async4(weights + tap * lanes + lane, from + tap * p.channels, there);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    int rows = threads >> p.laneShift >> p.columnShift;
    int by = blockIdx.y / p.blocks, bx = blockIdx.y - by * p.blocks;
    s.row = by * rows + (tile >> p.columnShift);
    s.column = (bx << p.columnShift) + (tile & ((1 << p.columnShift) - 1));
    return s;
}

// load reads rows x columns values of a channel from (y, x) on; those outside of the plane are zero.
template <int rows, int columns>
__device__ __forceinline__ void load(float (&patch)[rows][columns], const float* plane, int y, int x, int channel, int height, int width, int channels) {
    int at = (y * width + x) * channels + channel, pitch = width * channels;
    if (y >= 0 && y + rows <= height && x >= 0 && x + columns <= width) {
#pragma unroll
        for (int r = 0; r < rows; r++)
#pragma unroll
            for (int c = 0; c < columns; c++) patch[r][c] = plane[at + r * pitch + c * channels];
        return;
    }
#pragma unroll
    for (int r = 0; r < rows; r++) {
        bool inside = (unsigned)(y + r) < (unsigned)height;
#pragma unroll
        for (int c = 0; c < columns; c++)
            patch[r][c] = inside && (unsigned)(x + c) < (unsigned)width ? plane[at + r * pitch + c * channels] : 0.0f;
    }
}

// window convolves with windows of KZ x K x K at strides SZ, S, S. It is the gradient, too, where strides are 1 (with the weights turned
// around). A thread makes a tile of TH x TW outputs of each plane. Stage j of the march reads the planes at which the windows of outputs
// j, j-1, ... have positions 0, 1, ...; live[l] is output j-l.
template <int KZ, int K, int SZ, int S, int TH, int TW> __device__ __forceinline__ void window(const DepthwiseParams& p) {
    constexpr int LIVE = (KZ - 1) / SZ + 1;
    __shared__ float weights[KZ * K * K * lanes];
    Spot s = stage<KZ * K * K>(p, weights);
    int row = s.row * TH, column = s.column * TW;
    if (s.channel >= p.channels || row >= p.out[1] || column >= p.out[2]) return;
    const float* w = weights + (threadIdx.x & ((1 << p.laneShift) - 1));
    float bias = p.bias ? p.bias[s.channel] : 0.0f;
    int c0 = p.z0 + blockIdx.z * p.chunk, c1 = min(c0 + p.chunk, p.z1);

    float live[LIVE][TH][TW];
#pragma unroll
    for (int l = 0; l < LIVE; l++)
#pragma unroll
        for (int r = 0; r < TH; r++)
#pragma unroll
            for (int c = 0; c < TW; c++) live[l][r][c] = 0.0f;

#pragma unroll 1
    for (int j = c0; j < c1 + LIVE - 1; j++) {
#pragma unroll
        for (int i = 0; i < SZ; i++) {
            int z = j * SZ - p.before[0] + i;
            int of = (KZ - 1 - i) / SZ; // the plane is in the windows of outputs j-of to j
            if (i >= KZ || j - of >= c1 || z < 0 || z >= p.in[0]) continue;
            float patch[(TH - 1) * S + K][(TW - 1) * S + K];
            load(patch, plane<const float>(p.x, z), row * S - p.before[1], column * S - p.before[2], s.channel, p.in[1], p.in[2], p.channels);
#pragma unroll
            for (int l = 0; l < LIVE; l++) {
                int kz = i + l * SZ;
                if (kz >= KZ || j - l < c0 || j - l >= c1) continue;
#pragma unroll
                for (int ky = 0; ky < K; ky++)
#pragma unroll
                    for (int kx = 0; kx < K; kx++) {
                        float tap = w[((kz * K + ky) * K + kx) * lanes];
#pragma unroll
                        for (int r = 0; r < TH; r++)
#pragma unroll
                            for (int c = 0; c < TW; c++) live[l][r][c] += tap * patch[r * S + ky][c * S + kx];
                    }
            }
        }
        if (j - LIVE + 1 >= c0) {
            store(p, live[LIVE - 1], bias, j - LIVE + 1, row, column, s.channel);
        }
#pragma unroll
        for (int l = LIVE - 1; l >= 0; l--)
#pragma unroll
            for (int r = 0; r < TH; r++)
#pragma unroll
                for (int c = 0; c < TW; c++) live[l][r][c] = l > 0 ? live[l > 0 ? l - 1 : 0][r][c] : 0.0f;
    }
}

// spread is the gradient of windows with strides. The outputs S*m + r - origin, for residues r below S, are coarse point m. Output and
// padding together are S*(m + shift + carry) + k, where r + phase = S*carry + k: sums are over inputs m + shift + carry - t with
// weights k + S*t. The phase is P in the plane, where a thread makes TH x TW coarse points with all residues, and origin makes up for it if
// it is another; along depth it is p.phase, and there the origin is 0.
template <int KZ, int K, int SZ, int S, int P, int TH, int TW> __device__ __forceinline__ void spread(const DepthwiseParams& p) {
    constexpr int T = (K + P + S - 1) / S, LOW = (S - 1 + P) / S - T + 1; // inputs m + shift + LOW and T - 1 more
    __shared__ float weights[KZ * K * K * lanes];
    Spot s = stage<KZ * K * K>(p, weights);
    int row = s.row * TH, column = s.column * TW;
    int top = row * S - p.origin[1], left = column * S - p.origin[2];
    if (s.channel >= p.channels || top >= p.out[1] || left >= p.out[2]) return;
    const float* w = weights + (threadIdx.x & ((1 << p.laneShift) - 1));
    float bias = p.bias ? p.bias[s.channel] : 0.0f;
    int high = (SZ - 1 + p.phase) / SZ, low = high + 1 - (KZ + p.phase + SZ - 1) / SZ;
#pragma unroll 1
    for (int m = p.z0 / SZ + blockIdx.z * p.chunk, last = m + p.chunk; m < last; m++) {
        if (m * SZ >= p.z1) return;
        float sum[SZ][TH * S][TW * S];
#pragma unroll
        for (int i = 0; i < SZ; i++)
#pragma unroll
            for (int r = 0; r < TH * S; r++)
#pragma unroll
                for (int c = 0; c < TW * S; c++) sum[i][r][c] = 0.0f;
#pragma unroll 1
        for (int d = low; d <= high; d++) {
            int z = m + p.shift[0] + d;
            if (z < 0 || z >= p.in[0]) continue;
            float patch[TH + T - 1][TW + T - 1];
            load(patch, plane<const float>(p.x, z), row + p.shift[1] + LOW, column + p.shift[2] + LOW, s.channel, p.in[1], p.in[2], p.channels);
#pragma unroll
            for (int i = 0; i < SZ; i++) {
                int carry = (i + p.phase) / SZ, kz = i + p.phase - SZ * d; // = k + SZ*t with t = carry - d
                if (carry < d || kz >= KZ) continue;
                const float* taps = w + kz * (K * K * lanes);
#pragma unroll
                for (int ky = 0; ky < K; ky++)
#pragma unroll
                    for (int kx = 0; kx < K; kx++) {
                        float tap = taps[(ky * K + kx) * lanes];
                        int ry = (ky % S - P + S) % S, rx = (kx % S - P + S) % S;
                        int fromY = (ry + P) / S - ky / S - LOW, fromX = (rx + P) / S - kx / S - LOW;
#pragma unroll
                        for (int r = 0; r < TH; r++)
#pragma unroll
                            for (int c = 0; c < TW; c++) sum[i][r * S + ry][c * S + rx] += tap * patch[r + fromY][c + fromX];
                    }
            }
        }
#pragma unroll
        for (int i = 0; i < SZ; i++)
            if (m * SZ + i >= p.z0 && m * SZ + i < p.z1) store(p, sum[i], bias, m * SZ + i, top, left, s.channel);
    }
}

// any takes any window; a thread makes one output.
template <bool backward> __device__ __forceinline__ void any(const DepthwiseParams& p) {
    int i = blockIdx.x * threads + threadIdx.x;
    if (i >= p.plane) return;
    int z = p.z0 + blockIdx.y;
    uint32 channel, column;
    int row = p.byWidth.split(p.byChannels.split(i, channel), column);
    float sum = 0.0f;
    for (int kz = 0; kz < p.kernel[0]; kz++) {
        int iz = backward ? z + p.before[0] - kz * p.dilation[0] : z * p.stride[0] - p.before[0] + kz * p.dilation[0];
        if (backward) {
            if (iz < 0 || iz % p.stride[0] != 0) continue;
            iz /= p.stride[0];
        }
        if (iz < 0 || iz >= p.in[0]) continue;
        const float* x = plane<const float>(p.x, iz) + channel;
        for (int ky = 0; ky < p.kernel[1]; ky++) {
            int iy = backward ? row + p.before[1] - ky * p.dilation[1] : row * p.stride[1] - p.before[1] + ky * p.dilation[1];
            if (backward) {
                if (iy < 0 || iy % p.stride[1] != 0) continue;
                iy /= p.stride[1];
            }
            if (iy < 0 || iy >= p.in[1]) continue;
            for (int kx = 0; kx < p.kernel[2]; kx++) {
                int ix = (int)column + p.before[2] - kx * p.dilation[2];
                if (backward) {
                    if (ix < 0 || ix % p.stride[2] != 0) continue;
                    ix /= p.stride[2];
                } else {
                    ix = (int)column * p.stride[2] - p.before[2] + kx * p.dilation[2];
                }
                if (ix < 0 || ix >= p.in[2]) continue;
                sum += p.weights[((kz * p.kernel[1] + ky) * p.kernel[2] + kx) * p.channels + channel] * x[(iy * p.in[2] + ix) * p.channels];
            }
        }
    }
    if (p.residual.data) sum += plane<const float>(p.residual, z)[i];
    plane<float>(p.y, z)[i] = activate(p.activation, sum + (p.bias ? p.bias[channel] : 0.0f));
}

// Names give the window and its strides along depth and in the plane, and the phase of a gradient. depthwise.go has the same table.
RESIDENT(4, depthwise_k33_s11) { window<3, 3, 1, 1, 4, 4>(p); }
RESIDENT(4, depthwise_k55_s11) { window<5, 5, 1, 1, 2, 4>(p); }
RESIDENT(4, depthwise_k13_s11) { window<1, 3, 1, 1, 4, 4>(p); }
KERNEL(128, depthwise_k17_s11, DepthwiseParams) { window<1, 7, 1, 1, 2, 4>(p); }
KERNEL(128, depthwise_k77_s11, DepthwiseParams) { window<7, 7, 1, 1, 1, 4>(p); }
RESIDENT(4, depthwise_k31_s11) { window<3, 1, 1, 1, 4, 4>(p); }
RESIDENT(3, depthwise_k51_s11) { window<5, 1, 1, 1, 4, 4>(p); }
RESIDENT(4, depthwise_k33_s22) { window<3, 3, 2, 2, 2, 4>(p); }
RESIDENT(3, depthwise_k33_s12) { window<3, 3, 1, 2, 2, 4>(p); }
KERNEL(128, depthwise_k55_s22, DepthwiseParams) { window<5, 5, 2, 2, 2, 4>(p); }
RESIDENT(3, depthwise_k33_s22_back0) { spread<3, 3, 2, 2, 0, 2, 4>(p); }
RESIDENT(3, depthwise_k33_s22_back1) { spread<3, 3, 2, 2, 1, 2, 4>(p); }
RESIDENT(3, depthwise_k33_s12_back0) { spread<3, 3, 1, 2, 0, 2, 4>(p); }
RESIDENT(3, depthwise_k33_s12_back1) { spread<3, 3, 1, 2, 1, 2, 4>(p); }
RESIDENT(3, depthwise_k55_s22_back0) { spread<5, 5, 2, 2, 0, 2, 4>(p); }
RESIDENT(3, depthwise_k55_s22_back1) { spread<5, 5, 2, 2, 1, 2, 4>(p); }
KERNEL(128, depthwise_any, DepthwiseParams) { any<false>(p); }
KERNEL(128, depthwise_any_back, DepthwiseParams) { any<true>(p); }
