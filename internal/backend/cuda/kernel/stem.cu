// Convolutions of few input channels, and their gradients. Channels last makes the taps of a window's row one run of kx*cin numbers, so
// a stem is a product whose inner dimension is that run, and rows of the input in shared memory serve all windows that overlap there.
#include "conv.cuh"

struct StemParams {
    Planes x, y;          // what is read and written: a gradient reads dy and writes dx
    Planes residual;      // added before the activation; data is null where there is none
    const float* weights;
    const float* bias;    // null where there is none
    int in[3], out[3];    // depth, height, width
    int kernel[3], stride[3], dilation[3];
    int before[3];        // padding
    int cin, cout;        // channels that are read, and written
    int padded;           // cout of packed weights
    int z0, z1;           // output planes
    int origin[3];        // of a gradient, as shift and phase (see below)
    int shift[3], phase[3];
    int rows;             // rows of a plane in shared memory,
    int pitch;            // floats from one to the next,
    int width;            // and copies that fill a row (of a gradient: its columns)
    int wide;             // rows are copied 16 bytes at a time
    int planes;           // planes of a stage
    int across;           // blocks along the width
    int vectors;          // outputs (of a gradient: inputs) can be accessed 16 bytes at a time
    int activation;
    Divide byWidth;
};

#ifdef SIMULATOR
#define STEM(threads, blocks, name) KERNEL(threads, name, StemParams)
#else
// STEM(threads, blocks, name) is a kernel that leaves room for so many blocks on a multiprocessor.
#define STEM(threads, blocks, name) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ StemParams p)
#endif

// Forward: a block makes 32 columns x 8 rows of a plane, for 8 * TC output channels. A warp is a row: its lanes are 8 groups of channels x 4
// groups of 8 columns. A stage is some depth positions of the window: the input planes that they look at, and their weights.
static const int columns = 32, rows = 8, run = 8; // run: columns of a thread

// fill copies stage positions [kz0, kz1) to shared memory in the background.
template <int N> __device__ __forceinline__ void fill(const StemParams& p, float* input, float* weights, int kz0, int kz1, int z, int top, int left, int channel) {
    int perPlane = p.rows * p.width, step = p.wide ? 4 : 1, k = p.kernel[1] * p.kernel[2] * p.cin;
    for (int kz = kz0; kz < kz1; kz++) {
        int iz = z * p.stride[0] - p.before[0] + kz * p.dilation[0];
        if (iz < 0 || iz >= p.in[0]) continue;
        const float* x = plane<const float>(p.x, iz);
        float* to = input + (kz - kz0) * p.rows * p.pitch;
        for (int i = threadIdx.x; i < perPlane; i += 256) {
            uint32 column;
            int row = p.byWidth.split(i, column), y = top + row, at = (int)column * step, c = left + at;
            bool full = (unsigned)y < (unsigned)p.in[1] && (unsigned)c < (unsigned)(p.in[2] * p.cin);
            const float* from = full ? x + (y * p.in[2] * p.cin + c) : x;
            if (p.wide) copy_async16(to + row * p.pitch + at, from, full);
            else copy_async4(to + row * p.pitch + at, from, full);
        }
        const float* w = p.weights + (int64)kz * k * p.padded + channel;
        float* tap = weights + (kz - kz0) * k * N;
        for (int i = threadIdx.x; i < k * (N / 4); i += 256) copy_async16(tap + i * 4, w + i / (N / 4) * p.padded + i % (N / 4) * 4, true);
    }
    copy_async_commit();
}

// convolve: CIN, KW and SX are the input's channels, and the window's width and stride along it; CIN = 0 stands for any. TC is the number of
// output channels of a thread.
template <int CIN, int KW, int SX, int TC> __device__ __forceinline__ void convolve(const StemParams& p) {
    constexpr int N = 8 * TC, Q = TC / 4, STEP = SX * CIN, K = KW * CIN, WINDOW = ((run - 1) * STEP + K + 3) / 4 * 4;
    DYNAMIC_SHARED(float, shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 8, part = lane % 8;
    int by = blockIdx.x / p.across, bx = blockIdx.x - by * p.across;
    int channel = blockIdx.y * N, z = p.z0 + blockIdx.z;
    int top = by * rows * p.stride[1] - p.before[1], left = (bx * columns * p.stride[2] - p.before[2]) * p.cin;
    int k = p.kernel[1] * p.kernel[2] * p.cin;
    int inputs = p.planes * p.rows * p.pitch, size = inputs + p.planes * k * N;

    float sum[run][TC];
#pragma unroll
    for (int v = 0; v < run; v++)
#pragma unroll
        for (int c = 0; c < TC; c++) sum[v][c] = 0.0f;

    fill<N>(p, shared, shared + inputs, 0, min(p.planes, p.kernel[0]), z, top, left, channel);
    int buffer = 0;
    for (int kz0 = 0; kz0 < p.kernel[0]; kz0 += p.planes) {
        copy_async_wait<0>();
        __syncthreads();
        const float* input = shared + buffer * size;
        const float* weights = input + inputs;
        int kz1 = min(kz0 + p.planes, p.kernel[0]);
        if (kz1 < p.kernel[0]) {
            buffer ^= 1;
            float* next = shared + buffer * size;
            fill<N>(p, next, next + inputs, kz1, min(kz1 + p.planes, p.kernel[0]), z, top, left, channel);
        }
        for (int kz = kz0; kz < kz1; kz++) {
            int iz = z * p.stride[0] - p.before[0] + kz * p.dilation[0];
            if (iz < 0 || iz >= p.in[0]) continue;
#pragma unroll 1
            for (int ky = 0; ky < p.kernel[1]; ky++) {
                const float* x = input + ((kz - kz0) * p.rows + warp * p.stride[1] + ky * p.dilation[1]) * p.pitch;
                const float* w = weights + ((kz - kz0) * p.kernel[1] + ky) * p.kernel[2] * p.cin * N + part * 4;
                if constexpr (CIN > 0) {
                    x += group * run * STEP;
                    float window[WINDOW];
#pragma unroll
                    for (int i = 0; i < WINDOW; i += 4) {
                        float4 v = *reinterpret_cast<const float4*>(x + i);
                        window[i] = v.x, window[i + 1] = v.y, window[i + 2] = v.z, window[i + 3] = v.w;
                    }
#pragma unroll
                    for (int i = 0; i < K; i++)
#pragma unroll
                        for (int q = 0; q < Q; q++) {
                            float4 tap = *reinterpret_cast<const float4*>(w + i * N + q * 32);
#pragma unroll
                            for (int v = 0; v < run; v++) {
                                float a = window[v * STEP + i];
                                sum[v][q * 4] += a * tap.x, sum[v][q * 4 + 1] += a * tap.y, sum[v][q * 4 + 2] += a * tap.z, sum[v][q * 4 + 3] += a * tap.w;
                            }
                        }
                } else {
                    int step = p.stride[2] * p.cin;
                    x += group * run * step;
                    for (int kx = 0; kx < p.kernel[2]; kx++)
                        for (int ci = 0; ci < p.cin; ci++, w += N) {
                            const float* at = x + kx * p.dilation[2] * p.cin + ci;
                            float a[run];
#pragma unroll
                            for (int v = 0; v < run; v++) a[v] = at[v * step];
#pragma unroll
                            for (int q = 0; q < Q; q++) {
                                float4 tap = *reinterpret_cast<const float4*>(w + q * 32);
#pragma unroll
                                for (int v = 0; v < run; v++)
                                    sum[v][q * 4] += a[v] * tap.x, sum[v][q * 4 + 1] += a[v] * tap.y, sum[v][q * 4 + 2] += a[v] * tap.z, sum[v][q * 4 + 3] += a[v] * tap.w;
                            }
                        }
                }
            }
        }
    }

    int oy = by * rows + warp, ox = bx * columns + group * run;
    if (oy >= p.out[1]) return;
    int first = (oy * p.out[2] + ox) * p.cout;
    float* y = plane<float>(p.y, z) + first;
    const float* residual = p.residual.data ? plane<const float>(p.residual, z) + first : nullptr;
#pragma unroll
    for (int q = 0; q < Q; q++) {
        int c = channel + q * 32 + part * 4;
        if (c >= p.cout) continue;
        float bias[4];
#pragma unroll
        for (int i = 0; i < 4; i++) bias[i] = p.bias && c + i < p.cout ? p.bias[c + i] : 0.0f;
#pragma unroll
        for (int v = 0; v < run; v++) {
            if (ox + v >= p.out[2]) continue;
            float* to = y + v * p.cout + c;
            float* value = sum[v] + q * 4;
            if (residual)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (c + i < p.cout) value[i] += residual[v * p.cout + c + i];
#pragma unroll
            for (int i = 0; i < 4; i++) value[i] += bias[i];
            if (p.activation != NONE)
#pragma unroll
                for (int i = 0; i < 4; i++) value[i] = activate(p.activation, value[i]);
            if (p.vectors) {
                *reinterpret_cast<float4*>(to) = make_float4(value[0], value[1], value[2], value[3]);
            } else {
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (c + i < p.cout) to[i] = value[i];
            }
        }
    }
}

// Gradient: the outputs S*m + r - origin, for residues r below the stride S, are coarse point m. Output and padding together are
// S*(m + shift + carry) + k, where r + phase = S*carry + k: sums are over inputs m + shift + carry - t with weights k + S*t. The phase along
// the width is P, and origin makes up for it if it is another; elsewhere the origin is 0.
// A block makes 4 * TV columns x 32 rows of coarse points of one depth, all residues and channels of them. Its warps have 8 rows each,
// and 4 threads of TV points in a row. A stage is one input plane with 8 of the channels that are read.
static const int chunk = 8, tall = 32;

// Reach is the inputs m + shift + low and on that a coarse point is made of along an axis.
struct Reach {
    int low, count;

    __device__ __forceinline__ constexpr Reach(int kernel, int stride, int phase)
        : low((stride - 1 + phase) / stride + 1 - (kernel + phase + stride - 1) / stride), count((kernel + phase + stride - 1) / stride) {}
};

// spot is where columns of a row are in shared memory: apart so that the threads of a warp read from different banks.
template <int TV> __device__ __forceinline__ constexpr int spot(int column) { return column * chunk + column / TV * 4; }

template <int CIN, int KW, int SZ, int S, int TV>
__device__ __forceinline__ void fillGradient(const StemParams& p, float* input, float* weights, int d, int c0, int m, int top, int left) {
    int z = m + p.shift[0] + d;
    if (z >= 0 && z < p.in[0]) {
        const float* x = plane<const float>(p.x, z) + c0;
        for (int i = threadIdx.x; i < p.rows * p.width * 2; i += 128) {
            uint32 column;
            int row = p.byWidth.split(i >> 1, column), half = (i & 1) * 4;
            float* to = input + row * p.pitch + spot<TV>(column) + half;
            bool full = (unsigned)(top + row) < (unsigned)p.in[1] && (unsigned)(left + (int)column) < (unsigned)p.in[2];
            const float* from = full ? x + ((top + row) * p.in[2] + left + (int)column) * p.cin + half : x;
            if (p.vectors) {
                copy_async16(to, full && c0 + half < p.cin ? from : x, full && c0 + half < p.cin);
            } else {
                for (int k = 0; k < 4; k++) copy_async4(to + k, full && c0 + half + k < p.cin ? from + k : x, full && c0 + half + k < p.cin);
            }
        }
        // Weights are [kz][channels / 8][2][ky][kx][CIN][4].
        int size = p.kernel[1] * KW * CIN * chunk, chunks = (p.cin + chunk - 1) / chunk;
        for (int r = 0; r < SZ; r++) {
            int kz = r + p.phase[0] - SZ * d;
            if ((r + p.phase[0]) / SZ < d || kz >= p.kernel[0]) continue;
            const float* w = p.weights + (kz * chunks + c0 / chunk) * size;
            for (int i = threadIdx.x; i < size / 4; i += 128) copy_async16(weights + r * size + i * 4, w + i * 4, true);
        }
    }
    copy_async_commit();
}

template <int CIN, int KW, int SZ, int S, int P, int TV> __device__ __forceinline__ void gradient(const StemParams& p) {
    constexpr Reach across(KW, S, P);
    DYNAMIC_SHARED(float, shared);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane % 4, line = warp * 8 + lane / 4;
    int by = blockIdx.x / p.across, bx = blockIdx.x - by * p.across;
    int m = p.z0 / SZ + blockIdx.y, row = by * tall, column = bx * 4 * TV;
    Reach deep(p.kernel[0], SZ, p.phase[0]), down(p.kernel[1], S, p.phase[1]);
    int top = row + p.shift[1] + down.low, left = column + p.shift[2] + across.low;
    int inputs = p.rows * p.pitch, perKz = p.kernel[1] * KW * CIN * chunk, size = inputs + SZ * perKz;

    float sum[SZ][S][TV * S][CIN];
#pragma unroll
    for (int i = 0; i < SZ; i++)
#pragma unroll
        for (int r = 0; r < S; r++)
#pragma unroll
            for (int v = 0; v < TV * S; v++)
#pragma unroll
                for (int c = 0; c < CIN; c++) sum[i][r][v][c] = 0.0f;

    fillGradient<CIN, KW, SZ, S, TV>(p, shared, shared + inputs, deep.low, 0, m, top, left);
    int buffer = 0, d = deep.low, c0 = 0;
    while (d < deep.low + deep.count) {
        copy_async_wait<0>();
        __syncthreads();
        const float* input = shared + buffer * size;
        const float* weights = input + inputs;
        int now = d;
        if (c0 += chunk; c0 >= p.cin) c0 = 0, d++;
        if (d < deep.low + deep.count) {
            buffer ^= 1;
            float* next = shared + buffer * size;
            fillGradient<CIN, KW, SZ, S, TV>(p, next, next + inputs, d, c0, m, top, left);
        }
        if (m + p.shift[0] + now < 0 || m + p.shift[0] + now >= p.in[0]) continue;
#pragma unroll 1
        for (int iy = 0; iy < down.count; iy++)
#pragma unroll 1
            for (int half = 0; half < 2; half++) {
                const float* x = input + (line + iy) * p.pitch + spot<TV>(part * TV) + half * 4;
                float4 window[TV + across.count - 1];
#pragma unroll
                for (int v = 0; v < TV + across.count - 1; v++) window[v] = *reinterpret_cast<const float4*>(x + spot<TV>(v));
#pragma unroll
                for (int i = 0; i < SZ; i++) {
                    if ((i + p.phase[0]) / SZ < now || i + p.phase[0] - SZ * now >= p.kernel[0]) continue;
#pragma unroll
                    for (int r = 0; r < S; r++) {
                        int ky = r + p.phase[1] - S * (down.low + iy);
                        if ((r + p.phase[1]) / S < down.low + iy || ky >= p.kernel[1]) continue;
                        const float* w = weights + i * perKz + half * (perKz / 2) + ky * (KW * CIN * 4);
#pragma unroll
                        for (int kx = 0; kx < KW; kx++) {
                            int rx = (kx % S - P + S) % S, from = (rx + P) / S - kx / S - across.low;
#pragma unroll
                            for (int c = 0; c < CIN; c++) {
                                float4 tap = *reinterpret_cast<const float4*>(w + (kx * CIN + c) * 4);
#pragma unroll
                                for (int v = 0; v < TV; v++) {
                                    float4 a = window[v + from];
                                    float s = sum[i][r][v * S + rx][c];
                                    s += a.x * tap.x, s += a.y * tap.y, s += a.z * tap.z, s += a.w * tap.w;
                                    sum[i][r][v * S + rx][c] = s;
                                }
                            }
                        }
                    }
                }
            }
    }

    int z = m * SZ, y = (row + line) * S, x = (column + part * TV) * S - p.origin[2];
#pragma unroll
    for (int i = 0; i < SZ; i++) {
        if (z + i < p.z0 || z + i >= p.z1) continue;
        float* to = plane<float>(p.y, z + i);
        const float* residual = p.residual.data ? plane<const float>(p.residual, z + i) : nullptr;
#pragma unroll
        for (int r = 0; r < S; r++) {
            if ((unsigned)(y + r) >= (unsigned)p.out[1]) continue;
            int at = ((y + r) * p.out[2] + x) * CIN;
#pragma unroll
            for (int v = 0; v < TV * S; v++)
                if ((unsigned)(x + v) < (unsigned)p.out[2])
#pragma unroll
                    for (int c = 0; c < CIN; c++) {
                        float value = sum[i][r][v][c];
                        if (residual) value += residual[at + v * CIN + c];
                        if (p.bias) value += p.bias[c];
                        to[at + v * CIN + c] = activate(p.activation, value);
                    }
        }
    }
}

// Names give the input channels, the window's width and its stride along it, and the output channels of a block. stem.go has the same table.
STEM(256, 2, stem_c1_k3_s1_n32) { convolve<1, 3, 1, 4>(p); }
STEM(256, 2, stem_c1_k3_s1_n64) { convolve<1, 3, 1, 8>(p); }
STEM(256, 2, stem_c1_k3_s2_n32) { convolve<1, 3, 2, 4>(p); }
STEM(256, 2, stem_c1_k3_s2_n64) { convolve<1, 3, 2, 8>(p); }
STEM(256, 2, stem_c1_k7_s2_n32) { convolve<1, 7, 2, 4>(p); }
STEM(256, 2, stem_c1_k7_s2_n64) { convolve<1, 7, 2, 8>(p); }
STEM(256, 2, stem_c3_k3_s1_n32) { convolve<3, 3, 1, 4>(p); }
STEM(256, 1, stem_c3_k3_s1_n64) { convolve<3, 3, 1, 8>(p); }
STEM(256, 2, stem_c3_k3_s2_n32) { convolve<3, 3, 2, 4>(p); }
STEM(256, 1, stem_c3_k3_s2_n64) { convolve<3, 3, 2, 8>(p); }
STEM(256, 1, stem_c3_k7_s2_n32) { convolve<3, 7, 2, 4>(p); }
STEM(256, 1, stem_c3_k7_s2_n64) { convolve<3, 7, 2, 8>(p); }
STEM(256, 2, stem_any_n32) { convolve<0, 0, 0, 4>(p); }
STEM(256, 2, stem_any_n64) { convolve<0, 0, 0, 8>(p); }

// Names of gradients give the channels that are written, the window's width, the strides along depth and in the plane, and the phase.
STEM(128, 2, stem_back_c1_k3_s11_0) { gradient<1, 3, 1, 1, 0, 8>(p); }
STEM(128, 2, stem_back_c1_k3_s12_0) { gradient<1, 3, 1, 2, 0, 8>(p); }
STEM(128, 2, stem_back_c1_k3_s12_1) { gradient<1, 3, 1, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c1_k3_s22_0) { gradient<1, 3, 2, 2, 0, 8>(p); }
STEM(128, 2, stem_back_c1_k3_s22_1) { gradient<1, 3, 2, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c1_k7_s12_1) { gradient<1, 7, 1, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c1_k7_s22_1) { gradient<1, 7, 2, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c3_k3_s11_0) { gradient<3, 3, 1, 1, 0, 8>(p); }
STEM(128, 2, stem_back_c3_k3_s12_0) { gradient<3, 3, 1, 2, 0, 8>(p); }
STEM(128, 2, stem_back_c3_k3_s12_1) { gradient<3, 3, 1, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c3_k3_s22_0) { gradient<3, 3, 2, 2, 0, 4>(p); }
STEM(128, 2, stem_back_c3_k3_s22_1) { gradient<3, 3, 2, 2, 1, 4>(p); }
STEM(128, 2, stem_back_c3_k7_s12_1) { gradient<3, 7, 1, 2, 1, 8>(p); }
STEM(128, 2, stem_back_c3_k7_s22_1) { gradient<3, 7, 2, 2, 1, 4>(p); }
