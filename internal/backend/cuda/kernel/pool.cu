// Windows that slide over volumes without weights: maxima and means, and their gradients.
//
// A block makes 8 rows of 32 lanes; a lane is a channel or four of them at one position along the width. Windows are given at compile
// time as their planes KD, their rows and columns K, and the stride S of rows and columns, or at run time where K is 0.
#include "device.cuh"

struct PoolParams {
    Planes x, y, index; // of the pooling, whichever way it is computed: y and index have a value for each window of x
    int in[3], out[3];  // sizes of x and y along depth, height, width
    int kernel[3], stride[3], dilation[3], before[3];
    int channels;    // a voxel has so many
    int lanes;       // of a row of what is made, or of pairs of its columns
    Divide perVoxel; // lanes
    Divide strideOf[3], dilationOf[3];
    const int* count[3]; // means: what windows divide by, along each axis
    int z0, z1;          // planes to make
    int march;           // planes that a thread makes one after the other
    int pad;
};

template <int width> struct Lane { float v[width]; };

template <int width> __device__ __forceinline__ Lane<width> splat(float x) {
    Lane<width> r;
#pragma unroll
    for (int k = 0; k < width; k++) r.v[k] = x;
    return r;
}

__device__ __forceinline__ void load(Lane<4>& v, const float* p) {
    float4 f = *reinterpret_cast<const float4*>(p);
    v.v[0] = f.x, v.v[1] = f.y, v.v[2] = f.z, v.v[3] = f.w;
}
__device__ __forceinline__ void load(Lane<1>& v, const float* p) { v.v[0] = *p; }

__device__ __forceinline__ void store(float* p, const Lane<4>& v) { *reinterpret_cast<float4*>(p) = make_float4(v.v[0], v.v[1], v.v[2], v.v[3]); }
__device__ __forceinline__ void store(float* p, const Lane<1>& v) { *p = v.v[0]; }

// Best is the maximum of a window so far, and its tap where it is wanted.
template <int width, bool indexed> struct Best {
    float v[width];
    int tap[indexed ? width : 1];
};

template <int width, bool indexed> __device__ __forceinline__ void clear(Best<width, indexed>& b) {
#pragma unroll
    for (int k = 0; k < width; k++) {
        b.v[k] = -INF;
        if (indexed) b.tap[k] = 0;
    }
}

// join looks at what comes later in the window: the first of equals stays, NaN always wins.
template <int width, bool indexed> __device__ __forceinline__ void join(Best<width, indexed>& b, const float* v, const int* taps, int shift) {
#pragma unroll
    for (int k = 0; k < width; k++)
        if (v[k] > b.v[k] || v[k] != v[k]) {
            b.v[k] = v[k];
            if (indexed) b.tap[k] = (taps ? taps[k] : 0) + shift;
        }
}

// at is the voxel of a plane of x where the window's column is, or outside where that is not in the volume. The loads of a row need not
// wait for one another.
template <int width> __device__ __forceinline__ Lane<width> at(const PoolParams& p, const float* x, int iy, int ix, float outside) {
    Lane<width> v = splat<width>(outside);
    if ((unsigned)iy < (unsigned)p.in[1] && (unsigned)ix < (unsigned)p.in[2]) load(v, x + (iy * p.in[2] + ix) * p.channels);
    return v;
}

// look joins the part of a window that lies in one plane of x; the window begins at row y0 and column x0, taps at tap.
template <int K, int width, bool indexed>
__device__ __forceinline__ void look(const PoolParams& p, Best<width, indexed>& b, const float* x, int y0, int x0, int tap) {
    if constexpr (K > 0) {
        Lane<width> v[K][K];
#pragma unroll
        for (int i = 0; i < K; i++)
#pragma unroll
            for (int k = 0; k < K; k++) v[i][k] = at<width>(p, x, y0 + i, x0 + k, -INF);
#pragma unroll
        for (int i = 0; i < K; i++)
#pragma unroll
            for (int k = 0; k < K; k++) join(b, v[i][k].v, nullptr, tap + i * K + k);
    } else {
        for (int i = 0; i < p.kernel[1]; i++)
            for (int k = 0; k < p.kernel[2]; k++) {
                Lane<width> v = at<width>(p, x, y0 + i * p.dilation[1], x0 + k * p.dilation[2], -INF);
                join(b, v.v, nullptr, tap + i * p.kernel[2] + k);
            }
    }
}

template <class I, int width, bool indexed>
__device__ __forceinline__ void store(const PoolParams& p, const Best<width, indexed>& b, int z, int at) {
    if constexpr (!indexed) {
        Lane<width> v;
#pragma unroll
        for (int k = 0; k < width; k++) v.v[k] = b.v[k];
        store(plane<float>(p.y, z) + at, v);
    } else if constexpr (width == 4 && sizeof(I) == 1) {
        *reinterpret_cast<uint32*>(plane<uint8>(p.index, z) + at) = b.tap[0] | b.tap[1] << 8 | b.tap[2] << 16 | b.tap[3] << 24;
    } else {
#pragma unroll
        for (int k = 0; k < width; k++) plane<I>(p.index, z)[at + k] = (I)b.tap[k];
    }
}

// maxPool makes maxima, or their taps as I. A thread marches along depth where neighbouring windows share a plane, whose part of the
// window is looked at once.
template <int KD, int K, int S, int width, bool indexed, class I> __device__ __forceinline__ void maxPool(const PoolParams& p) {
    int lane = blockIdx.x * 32 + threadIdx.x % 32, oy = blockIdx.y * 8 + threadIdx.x / 32;
    if (lane >= p.lanes || oy >= p.out[1]) return;
    uint32 c, ox = p.perVoxel.split(lane, c);
    c *= width;
    const int kd = K ? KD : p.kernel[0], per = K ? K * K : p.kernel[1] * p.kernel[2];
    int y0 = oy * (K ? S : p.stride[1]) - p.before[1], x0 = ox * (K ? S : p.stride[2]) - p.before[2];
    int z = p.z0 + blockIdx.z * p.march, z1 = min(z + p.march, p.z1), at = oy * p.lanes * width + lane * width;
    Best<width, indexed> b, last;
    bool shared = false; // last is the part of the window before in its last plane, which is the first of this one
    for (; z < z1; z++) {
        int iz = z * p.stride[0] - p.before[0];
        if constexpr (KD == 3 && K == 3 && S == 2) { // compiled for stride 2 along depth, too
            clear(b);
            if (shared) b = last;
            else if ((unsigned)iz < (unsigned)p.in[0]) look<K>(p, b, plane<float>(p.x, iz) + c, y0, x0, 0);
            if ((unsigned)(iz + 1) < (unsigned)p.in[0]) look<K>(p, b, plane<float>(p.x, iz + 1) + c, y0, x0, 9);
            shared = (unsigned)(iz + 2) < (unsigned)p.in[0];
            if (shared) {
                clear(last);
                look<K>(p, last, plane<float>(p.x, iz + 2) + c, y0, x0, 0);
                join(b, last.v, indexed ? last.tap : nullptr, 18);
            }
        } else {
            clear(b);
#pragma unroll
            for (int k = 0; k < kd; k++) {
                int i = iz + k * p.dilation[0];
                if ((unsigned)i < (unsigned)p.in[0]) look<K>(p, b, plane<float>(p.x, i) + c, y0, x0, k * per);
            }
        }
        store<I>(p, b, z, at);
    }
}

// The windows of networks: stems and halvings, in volumes and in the planes of sequences.
#define WINDOWS(make) make(3, 3, 2) make(2, 2, 2) make(1, 3, 2) make(1, 2, 2)

#define MAX_POOL(KD, K, S)                                                                                            \
    KERNEL(256, pool_max_##KD##K##S, PoolParams) { maxPool<KD, K, S, 4, false, uint8>(p); }                           \
    KERNEL(256, pool_index_##KD##K##S, PoolParams) { maxPool<KD, K, S, 4, true, uint8>(p); }
WINDOWS(MAX_POOL)
KERNEL(256, pool_max_4, PoolParams) { maxPool<0, 0, 0, 4, false, uint8>(p); }
KERNEL(256, pool_max_1, PoolParams) { maxPool<0, 0, 0, 1, false, uint8>(p); }
KERNEL(256, pool_index_4, PoolParams) { maxPool<0, 0, 0, 4, true, uint8>(p); }
KERNEL(256, pool_index_1, PoolParams) { maxPool<0, 0, 0, 1, true, uint8>(p); }
KERNEL(256, pool_index16_1, PoolParams) { maxPool<0, 0, 0, 1, true, uint16>(p); }

// divisor is what the mean over a window divides by; windows without voxels are empty sums.
__device__ __forceinline__ float divisor(const PoolParams& p, int oz, int oy, int ox) {
    return max((float)p.count[0][oz] * (float)p.count[1][oy] * (float)p.count[2][ox], 1.0f);
}

// meanPool makes means; T is the type of the sums.
template <int KD, int K, int S, int width, class T> __device__ __forceinline__ void meanPool(const PoolParams& p) {
    int lane = blockIdx.x * 32 + threadIdx.x % 32, oy = blockIdx.y * 8 + threadIdx.x / 32, z = p.z0 + blockIdx.z;
    if (lane >= p.lanes || oy >= p.out[1]) return;
    uint32 c, ox = p.perVoxel.split(lane, c);
    const int kd = K ? KD : p.kernel[0], kh = K ? K : p.kernel[1], kw = K ? K : p.kernel[2];
    const int dh = K ? 1 : p.dilation[1], dw = K ? 1 : p.dilation[2];
    int y0 = oy * (K ? S : p.stride[1]) - p.before[1], x0 = ox * (K ? S : p.stride[2]) - p.before[2], z0 = z * p.stride[0] - p.before[0];
    T sum[width] = {};
#pragma unroll
    for (int j = 0; j < kd; j++) {
        int iz = z0 + j * p.dilation[0];
        if ((unsigned)iz >= (unsigned)p.in[0]) continue;
        const float* x = plane<float>(p.x, iz) + c * width;
        for (int i = 0; i < kh; i++)
            for (int k = 0; k < kw; k++) {
                Lane<width> v = at<width>(p, x, y0 + i * dh, x0 + k * dw, 0);
#pragma unroll
                for (int n = 0; n < width; n++) sum[n] += v.v[n];
            }
    }
    T share = 1 / (T)divisor(p, z, oy, ox);
    Lane<width> r;
#pragma unroll
    for (int n = 0; n < width; n++) r.v[n] = (float)(sum[n] * share);
    store(plane<float>(p.y, z) + (oy * p.lanes + lane) * width, r);
}

#define MEAN_POOL(KD, K, S) \
    KERNEL(256, pool_mean_##KD##K##S, PoolParams) { meanPool<KD, K, S, 4, float>(p); }
WINDOWS(MEAN_POOL)
KERNEL(256, pool_mean_4, PoolParams) { meanPool<0, 0, 0, 4, float>(p); }
KERNEL(256, pool_mean_1, PoolParams) { meanPool<0, 0, 0, 1, float>(p); }
KERNEL(256, pool_mean_precise, PoolParams) { meanPool<0, 0, 0, 1, double>(p); }

// Means over many voxels: a block makes 32 channels of one window, its warps share the window's rows.
KERNEL(256, pool_mean_wide, PoolParams) {
    __shared__ double sums[8][32];
    int column = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + column, z = p.z0 + blockIdx.z;
    int oy = blockIdx.y / p.out[2], ox = blockIdx.y % p.out[2];
    int x0 = ox * p.stride[2] - p.before[2];
    double sum = 0;
    if (c < p.channels)
        for (int r = warp; r < p.kernel[0] * p.kernel[1]; r += 8) {
            int iz = z * p.stride[0] - p.before[0] + r / p.kernel[1] * p.dilation[0];
            int iy = oy * p.stride[1] - p.before[1] + r % p.kernel[1] * p.dilation[1];
            if ((unsigned)iz >= (unsigned)p.in[0] || (unsigned)iy >= (unsigned)p.in[1]) continue;
            const float* x = plane<float>(p.x, iz) + iy * p.in[2] * p.channels + c;
#pragma unroll 4
            for (int k = 0; k < p.kernel[2]; k++) {
                int ix = x0 + k * p.dilation[2];
                if ((unsigned)ix < (unsigned)p.in[2]) sum += x[ix * p.channels];
            }
        }
    sums[warp][column] = sum;
    __syncthreads();
    if (warp != 0 || c >= p.channels) return;
    for (int w = 1; w < 8; w++) sum += sums[w][column];
    plane<float>(p.y, z)[(oy * p.out[2] + ox) * p.channels + c] = (float)(sum / (double)divisor(p, z, oy, ox));
}

// windowsOf are the windows [lo, hi] along an axis that a position of x may lie in, as far as strides say.
__device__ __forceinline__ void windowsOf(const PoolParams& p, int axis, int t, int& lo, int& hi) {
    int first = t - p.dilation[axis] * (p.kernel[axis] - 1); // the start of the first window that reaches the position
    lo = first <= 0 ? 0 : (int)p.strideOf[axis].quotient(first + p.stride[axis] - 1);
    hi = min((int)p.strideOf[axis].quotient(t), p.out[axis] - 1);
}

// tapOf is the tap of window o at a position of x, which is t behind the first window's start; negative where the window skips it.
__device__ __forceinline__ int tapOf(const PoolParams& p, int axis, int t, int o) {
    uint32 rest, k = p.dilationOf[axis].split(t - o * p.stride[axis], rest);
    return rest == 0 ? (int)k : -1;
}

// poolBackward collects for each voxel of x the gradients of the windows whose maximum it was, or its share of the gradients of means,
// in the order of the windows. x is the gradient with respect to the pooling's input, y that with respect to its output. T is the type
// of the sums, I that of the index.
template <int width, bool maximum, class I, class T> __device__ __forceinline__ void poolBackward(const PoolParams& p) {
    int lane = blockIdx.x * 32 + threadIdx.x % 32, iy = blockIdx.y * 8 + threadIdx.x / 32, z = p.z0 + blockIdx.z;
    if (lane >= p.lanes || iy >= p.in[1]) return;
    uint32 c, ix = p.perVoxel.split(lane, c);
    c *= width;
    int tz = z + p.before[0], ty = iy + p.before[1], tx = ix + p.before[2], lo[3], hi[3];
    windowsOf(p, 0, tz, lo[0], hi[0]);
    windowsOf(p, 1, ty, lo[1], hi[1]);
    windowsOf(p, 2, tx, lo[2], hi[2]);
    T sum[width] = {};
    for (int oz = lo[0]; oz <= hi[0]; oz++) {
        int kd = tapOf(p, 0, tz, oz);
        if (kd < 0) continue;
        const float* y = plane<float>(p.y, oz) + c;
        const I* index = maximum ? plane<I>(p.index, oz) + c : nullptr;
        for (int oy = lo[1]; oy <= hi[1]; oy++) {
            int kh = tapOf(p, 1, ty, oy);
            if (kh < 0) continue;
            for (int ox = lo[2]; ox <= hi[2]; ox++) {
                int kw = tapOf(p, 2, tx, ox), at = (oy * p.out[2] + ox) * p.channels;
                if (kw < 0) continue;
                Lane<width> v;
                load(v, y + at);
                if constexpr (maximum) {
                    int tap = (kd * p.kernel[1] + kh) * p.kernel[2] + kw;
#pragma unroll
                    for (int k = 0; k < width; k++)
                        if ((int)index[at + k] == tap) sum[k] += v.v[k];
                } else {
                    T share = 1 / (T)divisor(p, oz, oy, ox);
#pragma unroll
                    for (int k = 0; k < width; k++) sum[k] += v.v[k] * share;
                }
            }
        }
    }
    Lane<width> r;
#pragma unroll
    for (int k = 0; k < width; k++) r.v[k] = (float)sum[k];
    store(plane<float>(p.x, z) + (iy * p.lanes + lane) * width, r);
}

KERNEL(256, pool_max_backward_4, PoolParams) { poolBackward<4, true, uint8, float>(p); }
KERNEL(256, pool_max_backward_1, PoolParams) { poolBackward<1, true, uint8, float>(p); }
KERNEL(256, pool_max_backward16_1, PoolParams) { poolBackward<1, true, uint16, float>(p); }
KERNEL(256, pool_mean_backward_4, PoolParams) { poolBackward<4, false, uint8, float>(p); }
KERNEL(256, pool_mean_backward_1, PoolParams) { poolBackward<1, false, uint8, float>(p); }
KERNEL(256, pool_mean_backward_precise, PoolParams) { poolBackward<1, false, uint8, double>(p); }

// pairsBackward is the same for windows of K rows and columns, 2 or 3, with stride 2: a thread makes two by two voxels, which lie in
// few windows. Rows and columns count from the first window's start, so that voxels 2m and 2m+1 lie in window m, the first of them in
// the window before, too, where K is 3.
template <int K, bool maximum> __device__ __forceinline__ void pairsBackward(const PoolParams& p) {
    int lane = blockIdx.x * 32 + threadIdx.x % 32, my = blockIdx.y * 8 + threadIdx.x / 32 + p.before[1] / 2, z = p.z0 + blockIdx.z;
    if (lane >= p.lanes || 2 * my - p.before[1] >= p.in[1]) return;
    uint32 c;
    int mx = p.perVoxel.split(lane, c) + p.before[2] / 2;
    c *= 4;
    int tz = z + p.before[0], lo, hi;
    windowsOf(p, 0, tz, lo, hi);
    float sum[2][2][4] = {};
    for (int oz = lo; oz <= hi; oz++) {
        int kd = tapOf(p, 0, tz, oz);
        if (kd < 0) continue;
        const float* y = plane<float>(p.y, oz) + c;
        const uint8* index = maximum ? plane<uint8>(p.index, oz) + c : nullptr;
        constexpr int first = K == 3 ? -1 : 0;
        Lane<4> v[2][2];
        uint32 taps[2][2]; // of four channels, one a byte
#pragma unroll
        for (int j = first; j <= 0; j++)
#pragma unroll
            for (int i = first; i <= 0; i++) {
                int oy = my + j, ox = mx + i, at = (oy * p.out[2] + ox) * p.channels;
                v[-j][-i] = splat<4>(0);
                taps[-j][-i] = ~0u; // no tap of these windows
                if ((unsigned)oy >= (unsigned)p.out[1] || (unsigned)ox >= (unsigned)p.out[2]) continue;
                load(v[-j][-i], y + at);
                if (maximum) taps[-j][-i] = *reinterpret_cast<const uint32*>(index + at);
                else {
                    float share = 1 / divisor(p, oz, oy, ox);
#pragma unroll
                    for (int k = 0; k < 4; k++) v[-j][-i].v[k] *= share;
                }
            }
#pragma unroll
        for (int j = first; j <= 0; j++)
#pragma unroll
            for (int i = first; i <= 0; i++)
#pragma unroll
                for (int h = 0; h <= (j < 0 ? 0 : 1); h++)
#pragma unroll
                    for (int w = 0; w <= (i < 0 ? 0 : 1); w++) {
                        uint32 tap = kd * K * K + (h - 2 * j) * K + w - 2 * i;
#pragma unroll
                        for (int k = 0; k < 4; k++)
                            if (!maximum || (taps[-j][-i] >> 8 * k & 255) == tap) sum[h][w][k] += v[-j][-i].v[k];
                    }
    }
    float* x = plane<float>(p.x, z) + c;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int w = 0; w < 2; w++) {
            int iy = 2 * my + h - p.before[1], ix = 2 * mx + w - p.before[2];
            if ((unsigned)iy >= (unsigned)p.in[1] || (unsigned)ix >= (unsigned)p.in[2]) continue;
            const float* s = sum[h][w];
            *reinterpret_cast<float4*>(x + (iy * p.in[2] + ix) * p.channels) = make_float4(s[0], s[1], s[2], s[3]);
        }
}

KERNEL(256, pool_max_backward_32, PoolParams) { pairsBackward<3, true>(p); }
KERNEL(256, pool_max_backward_22, PoolParams) { pairsBackward<2, true>(p); }
KERNEL(256, pool_mean_backward_32, PoolParams) { pairsBackward<3, false>(p); }
KERNEL(256, pool_mean_backward_22, PoolParams) { pairsBackward<2, false>(p); }
