// Products of matrices.
#include "elements.cuh"

struct MatMulParams {
    Planes a, b, y;
    int z0, m, n, k;
    int stepAM, stepAK, stepBK, stepBN; // elements from a row or column to the next
    int sizeA, sizeB;                   // elements of a matrix
    Divide batch;                       // matrices of a plane; blockIdx.z counts them in all planes
    int z;                              // first blockIdx.z
    Broadcast broadcast;                          // which matrices of a and b belong together
};

struct Factors {
    const float *a, *b;
    float* y;
};

__device__ __forceinline__ Factors factors(const MatMulParams& p) {
    uint32 matrix, z = p.z0 + p.batch.split(blockIdx.z + p.z, matrix);
    int64 at[2];
    p.broadcast.offsets(matrix, 2, at);
    return {plane<float>(p.a, z) + at[0] * p.sizeA, plane<float>(p.b, z) + at[1] * p.sizeB, plane<float>(p.y, z) + (int64)matrix * p.m * p.n};
}

// matmul_dot makes each number by a warp, in float64: for small products, and rows of b that are contiguous along the sum.
KERNEL(256, matmul_dot, MatMulParams) {
    Factors f = factors(p);
    int column = blockIdx.x * 8 + threadIdx.x / 32, row = blockIdx.y;
    if (column >= p.n) return;
    const float *a = f.a + (int64)row * p.stepAM, *b = f.b + (int64)column * p.stepBN;
    double sum = 0;
#pragma unroll 8
    for (int k = threadIdx.x % 32; k < p.k; k += 32) sum += (double)a[(int64)k * p.stepAK] * (double)b[(int64)k * p.stepBK];
    for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(0xffffffff, sum, reach);
    if (threadIdx.x % 32 == 0) f.y[(int64)row * p.n + column] = (float)sum;
}

// matmul_columns does the same where columns of b lie beside each other: 32 columns a block, an eighth of the sum a warp.
KERNEL(256, matmul_columns, MatMulParams) {
    __shared__ double shared[256];
    Factors f = factors(p);
    int column = blockIdx.x * 32 + threadIdx.x % 32, row = blockIdx.y, part = threadIdx.x / 32;
    double sum = 0;
    if (column < p.n) {
        const float *a = f.a + (int64)row * p.stepAM, *b = f.b + (int64)column * p.stepBN;
#pragma unroll 8
        for (int k = part; k < p.k; k += 8) sum += (double)a[(int64)k * p.stepAK] * (double)b[(int64)k * p.stepBK];
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (part > 0 || column >= p.n) return;
    for (int k = 1; k < 8; k++) sum += shared[k * 32 + threadIdx.x];
    f.y[(int64)row * p.n + column] = (float)sum;
}

// matmul_tiles makes tiles of size*size numbers in float32, a thread (size/16)^2 of them, by slices of depth of the sum that are
// brought to shared memory while the one before is worked on. A slice is depth*size = 1024 numbers of each factor.
template <int size, bool transA, bool transB> __device__ __forceinline__ void matmul_tiles(const MatMulParams& p) {
    const int depth = 1024 / size, quads = size / 64, pitch = size + 4;
    const int unroll = quads == 1 ? 4 : 1; // such that two blocks have enough registers
    __shared__ __align__(16) float tileA[2][depth * pitch];
    __shared__ __align__(16) float tileB[2][depth * pitch];
    Factors f = factors(p);
    int row0 = blockIdx.x * size, column0 = blockIdx.y * size, tx = threadIdx.x % 16, ty = threadIdx.x / 16;

    // Threads that lie beside each other read what lies beside each other.
    auto place = [](bool alongSum, int i, int& outer, int& k) {
        int e = threadIdx.x + i * 256;
        if (alongSum) k = e % depth, outer = e / depth;
        else outer = e % size, k = e / size;
    };
    const int stepAM = transA ? 1 : p.stepAM, stepAK = transA ? p.stepAK : 1, stepBN = transB ? p.stepBN : 1, stepBK = transB ? 1 : p.stepBK;
    const float *a = f.a + (int64)row0 * stepAM, *b = f.b + (int64)column0 * stepBN;
    int leftM = p.m - row0, leftN = p.n - column0;
    float nextA[4], nextB[4];
    auto fetch = [&](int from) {
        int left = p.k - from;
        const float *nowA = a + (int64)from * stepAK, *nowB = b + (int64)from * stepBK;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int row, column, k;
            place(!transA, i, row, k);
            nextA[i] = row < leftM && k < left ? nowA[row * stepAM + k * stepAK] : 0.0f;
            place(transB, i, column, k);
            nextB[i] = column < leftN && k < left ? nowB[column * stepBN + k * stepBK] : 0.0f;
        }
    };
    auto keep = [&](int stage) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int outer, k;
            place(!transA, i, outer, k);
            tileA[stage][k * pitch + outer] = nextA[i];
            place(transB, i, outer, k);
            tileB[stage][k * pitch + outer] = nextB[i];
        }
    };

    float sum[quads * 4][quads * 4] = {};
    fetch(0);
    keep(0);
    __syncthreads();
    for (int from = 0, stage = 0; from < p.k; from += depth, stage ^= 1) {
        bool more = from + depth < p.k;
        if (more) fetch(from + depth);
#pragma unroll unroll
        for (int k = 0; k < depth; k++) {
            Pack<4> a[quads], b[quads];
#pragma unroll
            for (int h = 0; h < quads; h++) {
                a[h] = load(&tileA[stage][k * pitch + h * 64 + ty * 4], Width<4>());
                b[h] = load(&tileB[stage][k * pitch + h * 64 + tx * 4], Width<4>());
            }
#pragma unroll
            for (int i = 0; i < quads * 4; i++)
#pragma unroll
                for (int j = 0; j < quads * 4; j++) sum[i][j] += a[i / 4].v[i % 4] * b[j / 4].v[j % 4];
        }
        if (more) keep(stage ^ 1);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < quads * 4; i++) {
        int row = row0 + i / 4 * 64 + ty * 4 + i % 4;
        if (row >= p.m) continue;
        float* y = f.y + (int64)row * p.n;
#pragma unroll
        for (int j = 0; j < quads * 4; j++) {
            int column = column0 + j / 4 * 64 + tx * 4 + j % 4;
            if (column < p.n) y[column] = sum[i][j];
        }
    }
}

#define TILES(size)                                                                              \
    KERNEL(256, matmul_tiles_##size, MatMulParams) { matmul_tiles<size, false, false>(p); }      \
    KERNEL(256, matmul_tiles_##size##_a, MatMulParams) { matmul_tiles<size, true, false>(p); }   \
    KERNEL(256, matmul_tiles_##size##_b, MatMulParams) { matmul_tiles<size, false, true>(p); }   \
    KERNEL(256, matmul_tiles_##size##_ab, MatMulParams) { matmul_tiles<size, true, true>(p); }

TILES(64)
TILES(128)
