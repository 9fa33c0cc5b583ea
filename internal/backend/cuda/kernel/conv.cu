// Convolutions and their gradients as implicit matrix products in strict float32: rows are the points of a lattice, columns output
// channels, and the depth of the product is taps x input channels. Each output is one chain of fused multiply-adds in the order of the
// packed weights, whatever the tile, so that slabs give the same bits as the whole.
#include "conv.cuh"

// storeFour stores the first n of four values.
__device__ __forceinline__ void storeFour(float* to, const float* v, int n, int vectors) {
    if (vectors) {
        *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    to[0] = v[0];
    if (n > 1) to[1] = v[1];
    if (n > 2) to[2] = v[2];
    if (n > 3) to[3] = v[3];
}

// loadOrZero loads 16 bytes, or gives zeros where full is false.
__device__ __forceinline__ float4 loadOrZero(const float* at, bool full) {
#ifdef SIMULATOR
    return full ? *reinterpret_cast<const float4*>(at) : make_float4(0, 0, 0, 0);
#else
    // A compiler makes this a branch, which would cut the loop around it into pieces that are not scheduled together.
    float4 v;
    asm(
        "{\n\t"
        ".reg .pred full;\n\t"
        "setp.ne.s32 full, %5, 0;\n\t"
        "mov.b32 %0, 0;\n\t"
        "mov.b32 %1, 0;\n\t"
        "mov.b32 %2, 0;\n\t"
        "mov.b32 %3, 0;\n\t"
        "@full ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];\n\t"
        "}"
        : "=&f"(v.x), "=&f"(v.y), "=&f"(v.z), "=&f"(v.w)
        : "l"(at), "r"((int)full));
    return v;
#endif
}

// conv makes a tile of BM points x BN columns with a thread for each 8 x TN values. The lanes of a warp are LM x 32/LM. A step along the
// depth is 8 values: the points' go through registers to shared memory transposed, the weights' are copied there in the background.
template <int BM, int BN, int LM, int TN, int THREADS, bool aligned> __device__ __forceinline__ void conv(const ConvParams& p) {
    constexpr int K = 8, TM = 8, LN = 32 / LM;
    constexpr int warpRows = LM * TM, warpColumns = LN * TN, warpsN = BN / warpColumns;
    static_assert(BM / warpRows * warpsN * 32 == THREADS, "warps must cover the tile");
    constexpr int A = BM + 4; // the stride lets the transposing stores of a warp go to all banks
    constexpr int R = BM * 2 / THREADS; // rows that a thread loads, a half step of each
    constexpr int B = (K * BN / 4 + THREADS - 1) / THREADS; // vectors of weights that a thread copies
    __shared__ __align__(16) float as[2][K * A];
    __shared__ __align__(16) float bs[2][K * BN];
    __shared__ char* rows[BM];
    __shared__ int4 base[BM];
    __shared__ const float* sources[R * THREADS]; // here for want of registers

    const Lattice& l = p.l;
    const int t = threadIdx.x;
    uint32 tileN;
    const int m0 = p.tiles.split(blockIdx.x, tileN) * BM, n0 = tileN * BN;
    const int group = blockIdx.y / p.splits, split = blockIdx.y % p.splits;
    const int first = split * p.splitSteps, steps = min(p.steps - first, p.splitSteps);

    // Where the points are: their output voxels, and their input coordinates for tap 0, far outside for rows beyond the last point.
    for (int i = t; i < BM; i += THREADS) {
        rows[i] = nullptr;
        base[i] = make_int4(-(1 << 30), 0, 0, 0);
        if (m0 + i < l.points) {
            int z, y, x;
            latticePoint(l, m0 + i, z, y, x);
            rows[i] = latticeRow(l, l.out, z, y, x);
            base[i] = make_int4(z * l.inStep[0] + l.tapStart[0], y * l.inStep[1] + l.tapStart[1], x * l.inStep[2] + l.tapStart[2], 0);
        }
    }
    __syncthreads();

    // What this thread loads: channels from c on of a tap, for the points in rows t/2, t/2 + THREADS/2, ...
    uint32 c;
    uint32 tap = p.depth.split(first * K + t % 2 * 4, c);
    const float** source = sources + t; // every THREADS-th is this thread's
    auto locate = [&]() {
        uint32 inPlane, tx;
        const int tz = p.tapArea.split(tap, inPlane) * l.tapStep[0];
        const int ty = p.tapWidth.split(inPlane, tx) * l.tapStep[1];
#pragma unroll
        for (int r = 0; r < R; r++) {
            const int4 at = base[t / 2 + r * (THREADS / 2)];
            const float* voxel = tap < (uint32)p.taps ? latticeSource(l, at.x + tz, at.y + ty, at.z + (int)tx * l.tapStep[2]) : nullptr;
            source[r * THREADS] = voxel ? voxel + group * l.cin : nullptr;
        }
    };
    auto load = [&](int r) {
        const float* voxel = source[r * THREADS];
        if (aligned) return loadOrZero(voxel + c, voxel != nullptr);
        float4 v = make_float4(0, 0, 0, 0);
        const uint32 n = voxel ? l.cin - c : 0;
        if (n > 0) v.x = __ldg(voxel + c);
        if (n > 1) v.y = __ldg(voxel + c + 1);
        if (n > 2) v.z = __ldg(voxel + c + 2);
        if (n > 3) v.w = __ldg(voxel + c + 3);
        return v;
    };
    auto advance = [&]() {
        c += K;
        if (c < p.depth.divisor) return;
        do c -= p.depth.divisor, tap++;
        while (c >= p.depth.divisor);
        locate();
    };
    auto store = [&](int buffer, int r, float4 v) {
        float* to = &as[buffer][t % 2 * 4 * A + t / 2 + r * (THREADS / 2)];
        to[0] = v.x, to[A] = v.y, to[2 * A] = v.z, to[3 * A] = v.w;
    };
    uint32 weights = (group * p.steps + first) * K * p.columns + n0;
    auto copy = [&](int buffer, bool more) {
#pragma unroll
        for (int i = 0; i < B; i++) {
            int v = t + i * THREADS, k = v / (BN / 4), n = v % (BN / 4) * 4;
            if (K * BN / 4 % THREADS == 0 || v < K * BN / 4)
                copy_async16(&bs[buffer][k * BN + n], l.weights + (weights + k * p.columns + n), more && n0 + n < p.columns);
        }
        copy_async_commit();
        weights += K * p.columns;
    };

    // Lanes are numbered so that neighbours (bits 0 and 1) read the same vector of the points' or the weights' tile.
    const int lane = t % 32, warp = t / 32;
    const int bits = lane & 1 | lane >> 1 & 2; // bits 0 and 2
    const int tn = LN == 8 ? bits | lane >> 1 & 4 : bits;
    const int tm = LN == 8 ? lane >> 1 & 1 | lane >> 3 & 2 : lane >> 1 & 1 | lane >> 2 & 6;
    const int row0 = warp / warpsN * warpRows + tm * 4, column0 = warp % warpsN * warpColumns + tn * 4;

    float acc[TM][TN]; // sums begin with the bias
#pragma unroll
    for (int j = 0; j < TN; j++) {
        const int n = n0 + column0 + j / 4 * 4 * LN + j % 4;
        const float bias = l.bias && !p.partial && n < l.cout ? l.bias[group * l.cout + n] : 0.0f;
#pragma unroll
        for (int i = 0; i < TM; i++) acc[i][j] = bias;
    }

    if (steps > 0) {
        locate();
        copy(0, true);
#pragma unroll
        for (int r = 0; r < R; r++) store(0, r, load(r));
        copy_async_wait<0>();
    }
    __syncthreads();
    for (int s = 0; s < steps; s++) {
        const int now = s & 1;
        // What comes after the last step is loaded too, or is zero, and not used: without a branch the loop is scheduled as one.
        float4 next;
        advance();
        copy(now ^ 1, s + 1 < steps);
#pragma unroll
        for (int k = 0; k < K; k++) {
            if (k % (K / R) == 0) next = load(k / (K / R));
            float a[TM], b[TN];
#pragma unroll
            for (int h = 0; h < TM; h += 4)
                *reinterpret_cast<float4*>(a + h) = *reinterpret_cast<const float4*>(&as[now][k * A + row0 + h * LM]);
#pragma unroll
            for (int h = 0; h < TN; h += 4)
                *reinterpret_cast<float4*>(b + h) = *reinterpret_cast<const float4*>(&bs[now][k * BN + column0 + h * LN]);
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
            if ((k + 1) % (K / R) == 0) store(now ^ 1, k / (K / R), next);
        }
        copy_async_wait<0>();
        __syncthreads();
    }

    if ((l.residual.data || l.activation) && !p.partial) {
        // Rows take turns as the first: side by side, so many exponentials would be more code than the rest.
#pragma unroll 1
        for (int i = 0; i < TM; i++) {
            float v[TN];
#pragma unroll
            for (int j = 0; j < TN; j++) v[j] = acc[0][j];
            const int row = row0 + i / 4 * 4 * LM + i % 4;
            if (l.residual.data && rows[row]) {
                int z, y, x;
                latticePoint(l, m0 + row, z, y, x);
                const float* from = reinterpret_cast<const float*>(latticeRow(l, l.residual, z, y, x)) + group * l.cout + n0 + column0;
#pragma unroll
                for (int j = 0; j < TN; j++)
                    if (n0 + column0 + j / 4 * 4 * LN + j % 4 < l.cout) v[j] += from[j / 4 * 4 * LN + j % 4];
            }
#pragma unroll
            for (int j = 0; j < TN; j++) v[j] = activate(l.activation, v[j]);
#pragma unroll
            for (int k = 0; k + 1 < TM; k++)
#pragma unroll
                for (int j = 0; j < TN; j++) acc[k][j] = acc[k + 1][j];
#pragma unroll
            for (int j = 0; j < TN; j++) acc[TM - 1][j] = v[j];
        }
    }
    const int channel = group * l.cout + n0 + column0;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int row = row0 + i / 4 * 4 * LM + i % 4;
        float* to = reinterpret_cast<float*>(rows[row]);
        if (!to) continue;
        if (p.partial) to = p.partial + ((int64)split * l.points + m0 + row) * p.total.divisor;
#pragma unroll
        for (int j = 0; j < TN; j += 4)
            if (n0 + column0 + j * LN < l.cout) storeFour(to + channel + j * LN, acc[i] + j, l.cout - (n0 + column0 + j * LN), l.vectors);
    }
}

// Kernels are named after their tiles. As many blocks as are given share a multiprocessor.
#ifdef SIMULATOR
#define CONV_KERNEL(threads, blocks, name) KERNEL(threads, name, ConvParams)
#else
#define CONV_KERNEL(threads, blocks, name) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ ConvParams p)
#endif
#define CONV(BM, BN, LM, TN, threads, blocks)                                                                        \
    CONV_KERNEL(threads, blocks, conv_##BM##x##BN) { conv<BM, BN, LM, TN, threads, false>(p); }                      \
    CONV_KERNEL(threads, blocks, conv_##BM##x##BN##_4) { conv<BM, BN, LM, TN, threads, true>(p); }

CONV(128, 128, 4, 8, 256, 2)
CONV(128, 64, 4, 8, 128, 4)
CONV(128, 32, 4, 4, 128, 5)
CONV(64, 64, 4, 4, 128, 5)
CONV(256, 16, 8, 4, 128, 5)

// conv_finish adds the splits of the depth in order.
KERNEL(256, conv_finish, ConvParams) {
    const Lattice& l = p.l;
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= l.points * (int)p.total.divisor) return;
    uint32 channel;
    const int point = p.total.split(i, channel);
    int z, y, x;
    latticePoint(l, point, z, y, x);
    float sum = p.partial[i];
    for (int s = 1; s < p.splits; s++) sum += p.partial[(int64)s * l.points * p.total.divisor + i];
    if (l.bias) sum += l.bias[channel];
    if (l.residual.data) sum += reinterpret_cast<const float*>(latticeRow(l, l.residual, z, y, x))[channel];
    reinterpret_cast<float*>(latticeRow(l, l.out, z, y, x))[channel] = activate(l.activation, sum);
}
