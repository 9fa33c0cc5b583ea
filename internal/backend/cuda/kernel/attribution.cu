// What happens around the network: layout, noise, moments over draws, maps and heatmaps. Formulas are those of package cam, sums are
// float64 as there; arithmetic that decides bits is spelt out, so that no product is fused with a sum.
#include "device.cuh"

// Stats is what a map and its heatmap leave for the host. Floats are kept as integers of the same order.
struct Stats {
    uint64 peak; // bits of the largest magnitude of a map before it is scaled, float64
    uint32 bad;  // kinds of values that were not finite
    uint32 low, high;
    uint32 up_low, up_high; // of the map at the volume's size
    uint32 pad;
};

enum { BAD_VALUE = 1, BAD_GRADIENT = 2, BAD_MAP = 4 };

__device__ __forceinline__ bool finite(float v) { return (__float_as_uint(v) & 0x7f800000) != 0x7f800000; }
__device__ __forceinline__ uint32 ordered(float v) {
    uint32 u = __float_as_uint(v);
    return u >> 31 ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float unordered(uint32 u) { return __uint_as_float(u >> 31 ? u & 0x7fffffff : ~u); }

__device__ __forceinline__ void report(Stats* stats, uint32 bad) {
    if (bad) atomicOr(&stats->bad, bad);
}

struct ClearParams {
    Stats* stats;
};
KERNEL(256, attribution_clear, ClearParams) {
    if (threadIdx.x == 0) *p.stats = Stats{0, 0, 0xffffffffu, 0, 0xffffffffu, 0, 0};
}

// A piece of a volume, channel by channel, to channels last.
struct InterleaveParams {
    const float* src; // [channels][voxels]
    float* dst;       // [voxels][channels]
    int voxels;
    Divide channels;
};
KERNEL(256, interleave, InterleaveParams) {
    uint32 i = blockIdx.x * 256 + threadIdx.x, c;
    if (i >= p.voxels * p.channels.divisor) return;
    uint32 v = p.channels.split(i, c);
    p.dst[i] = p.src[(int64)c * p.voxels + v];
}

// A point of a method: a blend of the volume and a baseline, and noise to the definition in package noise and with its polynomials.
struct PerturbParams {
    float* dst;
    const float* x;
    int64 voxels;
    int channels;
    float baseline, fraction; // 1: nothing is blended
    float sigma;              // 0: there is no noise
    uint32 key[2], draw, sample[2];
    uint32 pad;
};

__device__ __forceinline__ void philox(const PerturbParams& p, uint32 block, uint32 out[4]) {
    uint32 c0 = block, c1 = p.draw, c2 = p.sample[0], c3 = p.sample[1], k0 = p.key[0], k1 = p.key[1];
#pragma unroll
    for (int r = 0; r < 10; r++) {
        uint64 p0 = (uint64)c0 * 0xD2511F53u, p1 = (uint64)c2 * 0xCD9E8D57u;
        c0 = (uint32)(p1 >> 32) ^ c1 ^ k0, c1 = (uint32)p1;
        c2 = (uint32)(p0 >> 32) ^ c3 ^ k1, c3 = (uint32)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

// muladd rounds twice.
__device__ __forceinline__ float muladd(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

__device__ __forceinline__ void box_muller(uint32 a, uint32 b, float& z0, float& z1) {
    uint32 bits = __float_as_uint(__fmul_rn(__uint2float_rn(a | 1), 2.3283064365386963e-10f));
    int e = (int)(bits - 0x3f3504f3u) >> 23;
    float f = __fsub_rn(__uint_as_float(bits - ((uint32)e << 23)), 1.0f);
    float q = muladd(f, -0.174007356f, 0.285349786f);
    q = muladd(q, f, -0.298295796f);
    q = muladd(q, f, 0.331551701f);
    q = muladd(q, f, -0.399261236f);
    q = muladd(q, f, 0.500026762f);
    q = muladd(q, f, -0.66667819f);
    float ff = __fmul_rn(f, f);
    q = muladd(__fmul_rn(ff, f), q, ff);
    q = muladd(f, -2.0f, q);
    float r = __fsqrt_rn(muladd(__int2float_rn(e), -1.3862943611198906f, q));

    float t = __fmul_rn(__int2float_rn((int)(b << 2)), 1.5707963267948966f * 2.3283064365386963e-10f);
    float tt = __fmul_rn(t, t);
    float s = muladd(tt, -0.000195172965f, 0.008332178f);
    s = muladd(s, tt, -0.166666552f);
    s = muladd(__fmul_rn(s, tt), t, t);
    float c = muladd(tt, 2.44384482e-05f, -0.00138873677f);
    c = muladd(c, tt, 0.0416666456f);
    c = muladd(c, tt, -0.5f);
    c = muladd(c, tt, 1.0f);

    uint32 turns = (b + (1u << 29)) >> 30;
    uint32 cb = __float_as_uint(__fmul_rn(r, c)), sb = __float_as_uint(__fmul_rn(r, s));
    uint32 swap = (cb ^ sb) & (0u - (turns & 1));
    z0 = __uint_as_float(cb ^ swap ^ (turns + 1) >> 1 << 31);
    z1 = __uint_as_float(sb ^ swap ^ turns >> 1 << 31);
}

__device__ __forceinline__ float4 normals(const PerturbParams& p, uint32 block) {
    uint32 w[4];
    philox(p, block, w);
    float4 z;
    box_muller(w[0], w[1], z.x, z.y);
    box_muller(w[2], w[3], z.z, z.w);
    return z;
}

__device__ __forceinline__ float blend(const PerturbParams& p, float x) {
    return p.fraction == 1 ? x : muladd(p.fraction, __fsub_rn(x, p.baseline), p.baseline);
}

// Four voxels a thread. Noise is counted channel by channel, and values lie channels last.
KERNEL(256, perturb, PerturbParams) {
    int64 v = ((int64)blockIdx.x * 256 + threadIdx.x) * 4;
    if (v >= p.voxels) return;
    if (p.channels == 1 && v + 4 <= p.voxels) {
        float4 x = *reinterpret_cast<const float4*>(p.x + v);
        x.x = blend(p, x.x), x.y = blend(p, x.y), x.z = blend(p, x.z), x.w = blend(p, x.w);
        if (p.sigma != 0) {
            float4 z = normals(p, (uint32)(v / 4));
            x.x = muladd(p.sigma, z.x, x.x), x.y = muladd(p.sigma, z.y, x.y);
            x.z = muladd(p.sigma, z.z, x.z), x.w = muladd(p.sigma, z.w, x.w);
        }
        *reinterpret_cast<float4*>(p.dst + v) = x;
        return;
    }
    int n = (int)min((int64)4, p.voxels - v);
    if (p.sigma == 0) {
        for (int64 i = v * p.channels; i < (v + n) * p.channels; i++) p.dst[i] = blend(p, p.x[i]);
        return;
    }
    for (int c = 0; c < p.channels; c++) {
        int64 first = c * p.voxels + v;
        uint32 block = (uint32)(first / 4);
        float4 z = normals(p, block);
        for (int k = 0; k < n; k++) {
            int64 i = first + k;
            if ((uint32)(i / 4) != block) z = normals(p, block = (uint32)(i / 4));
            int lane = (int)(i % 4);
            float value = lane < 2 ? (lane == 0 ? z.x : z.y) : (lane == 2 ? z.z : z.w);
            int64 at = (v + k) * p.channels + c;
            p.dst[at] = muladd(p.sigma, value, blend(p, p.x[at]));
        }
    }
}

// Moments take in the gradient of a draw: four values a thread. Arrays that are not kept are null.
struct MomentsParams {
    const float* g;
    float *mean, *m2, *abs, *square;
    int64 n;
    double step; // 1 over the number of draws with this one
};

__device__ __forceinline__ float toward(float mean, double value, double step) {
    return (float)__dadd_rn(mean, __dmul_rn(__dsub_rn(value, mean), step));
}

__device__ __forceinline__ void load4(float v[4], const float* at, int64 i, int n) {
    if (!at) return;
    if (n == 4) *reinterpret_cast<float4*>(v) = *reinterpret_cast<const float4*>(at + i);
    else
        for (int k = 0; k < n; k++) v[k] = at[i + k];
}
__device__ __forceinline__ void store4(const float v[4], float* at, int64 i, int n) {
    if (!at) return;
    if (n == 4) *reinterpret_cast<float4*>(at + i) = *reinterpret_cast<const float4*>(v);
    else
        for (int k = 0; k < n; k++) at[i + k] = v[k];
}

KERNEL(256, moments_add, MomentsParams) {
    int64 i = ((int64)blockIdx.x * 256 + threadIdx.x) * 4;
    if (i >= p.n) return;
    int n = (int)min((int64)4, p.n - i);
    __align__(16) float g[4], mean[4], m2[4], abs[4], square[4];
    load4(g, p.g, i, n), load4(mean, p.mean, i, n), load4(m2, p.m2, i, n), load4(abs, p.abs, i, n), load4(square, p.square, i, n);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (k >= n) break;
        double x = g[k];
        if (p.m2) {
            double m = mean[k], d = x - m, next = __dadd_rn(m, __dmul_rn(d, p.step));
            mean[k] = (float)next;
            m2[k] = (float)__dadd_rn(m2[k], __dmul_rn(d, __dsub_rn(x, next)));
        } else if (p.mean) {
            mean[k] = toward(mean[k], x, p.step);
        }
        if (p.abs) abs[k] = toward(abs[k], fabs(x), p.step);
        if (p.square) square[k] = toward(square[k], x * x, p.step);
    }
    store4(mean, p.mean, i, n), store4(m2, p.m2, i, n), store4(abs, p.abs, i, n), store4(square, p.square, i, n);
}

// Maps that look at each voxel for itself: a sum over channels of values of up to four fields.
struct VoxelParams {
    const float *a, *b, *c, *d; // gradient and volume, or mean, m2, abs, square
    float* out;
    Stats* stats;
    const float* x; // the volume, for a path
    int64 voxels;
    int channels;
    float baseline; // of the path
    double draws;
};

__device__ __forceinline__ double mean_square(const VoxelParams& p, int64 i) {
    if (p.d) return p.d[i];
    double mean = p.a[i];
    return __dadd_rn(__dmul_rn(mean, mean), p.b[i] / p.draws);
}

#define VOXEL(name, check, expression)                                                                   \
    KERNEL(256, voxel_##name, VoxelParams) {                                                             \
        int64 v = (int64)blockIdx.x * 256 + threadIdx.x;                                                 \
        if (v >= p.voxels) return;                                                                       \
        double sum = 0;                                                                                  \
        uint32 bad = 0;                                                                                  \
        for (int64 i = v * p.channels; i < (v + 1) * p.channels; i++) {                                  \
            if ((check) & BAD_GRADIENT && !finite(p.a[i])) bad |= BAD_GRADIENT;                          \
            if ((check) & BAD_VALUE && !finite(p.b[i])) bad |= BAD_VALUE;                                \
            sum = __dadd_rn(sum, expression);                                                            \
        }                                                                                                \
        p.out[v] = (float)sum;                                                                           \
        if (!finite(p.out[v])) bad |= BAD_MAP;                                                           \
        report(p.stats, bad);                                                                            \
    }

VOXEL(saliency, BAD_GRADIENT, fabs((double)p.a[i]))
VOXEL(input_times_gradient, BAD_GRADIENT | BAD_VALUE, (double)p.b[i] * p.a[i])
VOXEL(abs_mean, 0, fabs((double)p.a[i]))
VOXEL(mean_abs, 0, (double)p.c[i])
VOXEL(root_square, 0, sqrt(mean_square(p, i)) / sqrt(p.draws))
VOXEL(mean_square, 0, mean_square(p, i))
VOXEL(variance, 0, p.b[i] / (p.draws - 1))
VOXEL(variance_all, 0, p.b[i] / p.draws)
VOXEL(path, 0, ((double)p.x[i] - p.baseline) * p.a[i])

// A layer, whose voxels and channels lie as backend.Layout says.
struct LayerParams {
    const float *a, *g;
    int64 stride[3], channel_stride;
    int size1, size2; // of the inner two axes
    int voxels, channels;
    int chunk; // voxels of a block of partial sums
    int chunks;
    double* partial;    // [chunks][channels]
    const double* sum;  // of each channel, that the formula needs
    const double* mean; // of each channel's activation, where the formula needs it
    double* total;      // of each channel
    float* out;         // null where only the peak is wanted
    Stats* stats;
    double scale;  // of weights
    double factor; // of the map
};

__device__ __forceinline__ int64 layer_at(const LayerParams& p, int v) {
    uint32 i = (uint32)v, x = i % (uint32)p.size2, rest = i / (uint32)p.size2;
    return (int64)(rest / (uint32)p.size1) * p.stride[0] + (int64)(rest % (uint32)p.size1) * p.stride[1] + (int64)x * p.stride[2];
}

// layer_sum sums over voxels for each channel. A block has 32 channels and a chunk of voxels, of which its 8 rows of threads take turns.
template <class F> __device__ __forceinline__ void layer_sum(const LayerParams& p, F f) {
    __shared__ double rows[8][32];
    int lane = threadIdx.x % 32, row = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    double sum = 0;
    uint32 bad = 0;
    if (c < p.channels) {
        double s = p.sum ? p.sum[c] : 0;
        int end = min(p.voxels, (int)(blockIdx.y + 1) * p.chunk);
        for (int v = blockIdx.y * p.chunk + row; v < end; v += 8) {
            int64 at = layer_at(p, v) + c * p.channel_stride;
            float a = p.a[at], g = p.g[at];
            if (!finite(a)) bad |= BAD_VALUE;
            if (!finite(g)) bad |= BAD_GRADIENT;
            sum += f((double)a, (double)g, s, 0.0);
        }
    }
    rows[row][lane] = sum;
    __syncthreads();
    if (row == 0 && c < p.channels) {
        for (int r = 1; r < 8; r++) sum += rows[r][lane];
        p.partial[(int64)blockIdx.y * p.channels + c] = sum;
    }
    report(p.stats, bad);
}

KERNEL(256, layer_total, LayerParams) {
    int c = blockIdx.x * 256 + threadIdx.x;
    if (c >= p.channels) return;
    double sum = 0;
    for (int k = 0; k < p.chunks; k++) sum += p.partial[(int64)k * p.channels + c];
    p.total[c] = sum;
}

// layer_map sums over channels for each voxel; a warp has a voxel.
template <class F> __device__ __forceinline__ void layer_map(const LayerParams& p, F f) {
    int lane = threadIdx.x % 32, v = blockIdx.x * 8 + threadIdx.x / 32;
    if (v >= p.voxels) return;
    int64 at = layer_at(p, v);
    double sum = 0;
    uint32 bad = 0;
    for (int c = lane; c < p.channels; c += 32) {
        float a = p.a[at + c * p.channel_stride], g = p.g[at + c * p.channel_stride];
        if (!finite(a)) bad |= BAD_VALUE;
        if (!finite(g)) bad |= BAD_GRADIENT;
        sum += f((double)a, (double)g, p.sum ? p.sum[c] * p.scale : 0, p.mean ? p.mean[c] : 0);
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    if (lane == 0) {
        if (p.out) {
            p.out[v] = (float)(sum * p.factor);
            if (!finite(p.out[v])) bad |= BAD_MAP;
        } else {
            atomicMax(&p.stats->peak, (uint64)__double_as_longlong(fabs(sum)));
        }
    }
    report(p.stats, bad);
}

#define LAYER(kind, name, expression)                                                                     \
    struct kind##_##name##_f {                                                                            \
        __device__ __forceinline__ double operator()(double a, double g, double s, double mean) const {   \
            return expression;                                                                            \
        }                                                                                                 \
    };                                                                                                    \
    KERNEL(256, kind##_##name, LayerParams) { kind(p, kind##_##name##_f()); }

// Sums; s is the sum before.
LAYER(layer_sum, gradient, g)
LAYER(layer_sum, activation, a)
LAYER(layer_sum, cubed, a * g * g * g)
LAYER(layer_sum, original, g <= 0 ? 0 : g * g / (2 * g * g + s + 1e-8) * g)
LAYER(layer_sum, paper, g <= 0 || 2 + s * g == 0 ? 0 : g / (2 + s * g))
LAYER(layer_sum, pytorch, g <= 0 ? 0 : g * g / (2 * g * g + s * g * g * g + 1e-6) * g)
LAYER(layer_sum, monai, g <= 0 ? 0 : g * g / ((2 * g * g + s == 0 ? 1 : 2 * g * g + s) + 1e-7) * g)
LAYER(layer_sum, share, g * a / (s + 1e-7))
LAYER(layer_sum, squared, a * a)

// Maps; s is the weight of the channel, mean that of its activation.
LAYER(layer_map, weigh, s * a)
LAYER(layer_map, product, g * a)
LAYER(layer_map, positive_product, g * a > 0 ? g * a : 0)
LAYER(layer_map, positive_gradient, (g > 0 ? g : 0) * a)
LAYER(layer_map, project, s * (a - mean))

// layer_covariance multiplies the covariance of the activation, times the number of voxels, by a vector v, which is p.sum: for each channel k it
// sums P (A_k - mean_k) over voxels, P being sum_k v_k (A_k - mean_k). A block has a chunk of voxels, and P of a tile of them at a time. Values
// were found finite.
KERNEL(256, layer_covariance, LayerParams) {
    enum { TILE = 64 };
    __shared__ double projection[TILE], rows[8][32];
    int lane = threadIdx.x % 32, row = threadIdx.x / 32;
    int first = blockIdx.x * p.chunk, end = min(p.voxels, first + p.chunk);
    double* partial = p.partial + (int64)blockIdx.x * p.channels;
    for (int tile = first; tile < end; tile += TILE) {
        int n = min((int)TILE, end - tile);
        for (int i = row; i < n; i += 8) {
            int64 at = layer_at(p, tile + i);
            double sum = 0;
            for (int c = lane; c < p.channels; c += 32) sum += p.sum[c] * (p.a[at + c * p.channel_stride] - p.mean[c]);
            for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
            if (lane == 0) projection[i] = sum;
        }
        __syncthreads();
        for (int first_channel = 0; first_channel < p.channels; first_channel += 32) {
            int c = first_channel + lane;
            double sum = 0;
            if (c < p.channels) {
                for (int i = row; i < n; i += 8) sum += projection[i] * (p.a[layer_at(p, tile + i) + c * p.channel_stride] - p.mean[c]);
            }
            rows[row][lane] = sum;
            __syncthreads();
            if (row == 0 && c < p.channels) {
                for (int r = 1; r < 8; r++) sum += rows[r][lane];
                partial[c] = tile == first ? sum : partial[c] + sum;
            }
            __syncthreads();
        }
    }
}

// Heatmaps.
struct HeatParams {
    const float* src;
    float* dst;
    Stats* stats;
    int from[3], to[3];
    int positive; // ReLU first
    int same;     // sizes are equal
};

// Range is the smallest and the largest of the values that a thread saw.
struct Range {
    float low, high;
    __device__ __forceinline__ void add(float v) { add(v, v); }
    __device__ __forceinline__ void add(float l, float h) { low = l < low ? l : low, high = h > high ? h : high; }
};

// reduce_range brings the ranges of a block of 256 together and into two words of the statistics.
__device__ __forceinline__ void reduce_range(Range r, uint32* all_low, uint32* all_high) {
    __shared__ Range warps[8];
    for (int d = 16; d > 0; d /= 2) {
        float low = __shfl_xor_sync(0xffffffffu, r.low, d), high = __shfl_xor_sync(0xffffffffu, r.high, d);
        r.add(low, high);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = r;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int k = 1; k < 8; k++) r.add(warps[k].low, warps[k].high);
    if (r.low > r.high) return; // no value
    atomicMin(all_low, ordered(r.low));
    atomicMax(all_high, ordered(r.high));
}

__device__ __forceinline__ float source(const HeatParams& p, int64 i) {
    float v = p.src[i];
    return p.positive && !(v > 0) ? 0.0f : v;
}

KERNEL(256, map_range, HeatParams) {
    int64 n = (int64)p.from[0] * p.from[1] * p.from[2], step = (int64)gridDim.x * 256;
    Range r = {INF, -INF};
    uint32 bad = 0;
    for (int64 i = (int64)blockIdx.x * 256 + threadIdx.x; i < n; i += step) {
        if (!finite(p.src[i])) bad |= BAD_MAP;
        else r.add(source(p, i));
    }
    report(p.stats, bad);
    reduce_range(r, &p.stats->low, &p.stats->high);
}

struct Tap {
    int low, high;
    float share;
};

// tap is between which sources a destination lies, in the arithmetic of package cam.
__device__ __forceinline__ Tap tap(int i, int in, int out) {
    if (in == out) return Tap{i, i, 0};
    float scale = __fdiv_rn((float)in, (float)out);
    float at = fmaxf(__fsub_rn(__fmul_rn(scale, __fadd_rn((float)i, 0.5f)), 0.5f), 0.0f);
    int low = min((int)at, in - 1);
    return Tap{low, min(low + 1, in - 1), fminf(__fsub_rn(at, (float)low), 1.0f)};
}

__device__ __forceinline__ float mix(float low, float high, float share) { return muladd(share, __fsub_rn(high, low), low); }

// upsampled makes voxels x to x+3 of row y of plane z: along width, then height, then depth.
__device__ __forceinline__ void upsampled(const HeatParams& p, int z, int y, int x, float out[4]) {
    Tap tz = tap(z, p.from[0], p.to[0]), ty = tap(y, p.from[1], p.to[1]);
    int64 rows[4] = {((int64)tz.low * p.from[1] + ty.low) * p.from[2], ((int64)tz.low * p.from[1] + ty.high) * p.from[2],
                     ((int64)tz.high * p.from[1] + ty.low) * p.from[2], ((int64)tz.high * p.from[1] + ty.high) * p.from[2]};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (x + k >= p.to[2]) break;
        Tap tx = tap(x + k, p.from[2], p.to[2]);
        float v[4];
        for (int r = 0; r < 4; r++) v[r] = mix(source(p, rows[r] + tx.low), source(p, rows[r] + tx.high), tx.share);
        out[k] = mix(mix(v[0], v[1], ty.share), mix(v[2], v[3], ty.share), tz.share);
    }
}

KERNEL(256, heat_range, HeatParams) {
    Range r = {INF, -INF};
    uint32 quads = (p.to[2] + 3) / 4, n = p.to[0] * p.to[1] * quads;
    for (uint32 i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
        int row = i / quads, x = i % quads * 4;
        float v[4];
        upsampled(p, row / p.to[1], row % p.to[1], x, v);
        for (int k = 0; k < 4; k++)
            if (x + k < p.to[2]) r.add(v[k]);
    }
    reduce_range(r, &p.stats->up_low, &p.stats->up_high);
}

KERNEL(256, heat_write, HeatParams) {
    uint32 quads = (p.to[2] + 3) / 4, i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.to[0] * p.to[1] * quads) return;
    int row = i / quads, x = i % quads * 4, n = min(4, p.to[2] - x);
    int64 at = (int64)row * p.to[2] + x;
    double low = unordered(p.stats->low), high = unordered(p.stats->high);
    float v[4];
    if (high - low <= 4.0 / (1 << 23) * fmax(fabs(low), fabs(high))) { // no more than rounding
        v[0] = v[1] = v[2] = v[3] = 0;
    } else {
        if (p.same) {
            for (int k = 0; k < n; k++) v[k] = source(p, at + k);
        } else {
            low = unordered(p.stats->up_low), high = unordered(p.stats->up_high);
            upsampled(p, row / p.to[1], row % p.to[1], x, v);
        }
        double scale = 1 / (high - low + 1e-8);
        for (int k = 0; k < n; k++) v[k] = (float)((v[k] - low) * scale);
    }
    if (n == 4 && at % 4 == 0) *reinterpret_cast<float4*>(p.dst + at) = make_float4(v[0], v[1], v[2], v[3]);
    else
        for (int k = 0; k < n; k++) p.dst[at + k] = v[k];
}
