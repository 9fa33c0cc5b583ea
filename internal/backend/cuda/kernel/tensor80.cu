// Convolutions on tensor cores with the instructions that all of them since Ampere have (mma.sync). A block makes 64 channels of 16 x 8
// points. All of its threads load and multiply; loads are some steps ahead.
#include "tensor.cuh"

#ifdef SIMULATOR
// Warps exchange what their threads hold through memory, in turn through two places, so that a thread that is ahead disturbs nobody.
static thread_local uint32 warp_words[2][32][32][8];
static thread_local uint8 warp_turn[1024];
typedef uint32 WarpWords[32][8];
inline WarpWords& warp_exchange(const void* mine, size_t bytes) {
    WarpWords& words = warp_words[warp_turn[threadIdx.x]++ & 1][threadIdx.x / 32];
    memcpy(words[threadIdx.x % 32], mine, bytes);
    __syncwarp();
    return words;
}

// load_matrices gives each thread 4 bytes of each of 4 matrices of 8 rows of 16 bytes, whose rows lie where 8 threads each say.
inline void load_matrices(uint32 (&r)[4], const void* row) {
    WarpWords& words = warp_exchange(&row, sizeof row);
    int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        const char* from;
        memcpy(&from, words[8 * i + lane / 4], sizeof from);
        memcpy(&r[i], from + lane % 4 * 4, 4);
    }
}
inline void mma(float (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    uint32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    WarpWords& words = warp_exchange(mine, sizeof mine);
    int lane = threadIdx.x % 32;
    auto value = [&](int l, int i) { return __uint_as_float(words[l][i] & ~0x1fffu); };
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 8; k++) d[i] += value(lane / 4 * 4 + k % 4, k / 4 * 2 + i / 2) * value((lane % 4 * 2 + i % 2) * 4 + k % 4, 4 + k / 4);
}
#else
__device__ __forceinline__ void load_matrices(uint32 (&r)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32)__cvta_generic_to_shared(row))
                 : "memory");
#endif
}
// mma adds the product of 16 rows of a and 8 columns of b, 8 deep.
__device__ __forceinline__ void mma(float (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
#endif

constexpr int threads = 256, lines = 16, points = 8, tile_bytes = 8192;

// Steps goes through the steps of a tile, and round the places of boxes and weights.
struct Steps {
    const TensorParams& p;
    int z0;
    int group, z, chunk, tap, stage, slot;

    __device__ __forceinline__ Steps(const TensorParams& p, int z0) : p(p), z0(z0), z(0), chunk(0), tap(0), stage(0), slot(0) {
        group = tensorGroup(p, 0, z0, z);
    }
    __device__ __forceinline__ bool more() const { return group < p.groups; }
    __device__ __forceinline__ void next() {
        if (++slot == p.slots) slot = 0;
        if (++tap < p.group[group].taps) return;
        tap = 0;
        if (++stage == p.stages) stage = 0;
        if (++chunk < p.chunks) return;
        chunk = 0;
        group = tensorGroup(p, group + 1, z0, z);
    }
};

// swizzled is where 16 bytes of a row of 128 bytes are: any 8 rows have theirs in different banks.
__device__ __forceinline__ char* swizzled(char* base, int row, int part) { return base + row * 128 + ((part ^ (row & 7)) << 4); }

__device__ __forceinline__ void load(const TensorParams& p, const Steps& s, const TensorTile& t, char* boxes, char* slots) {
    const TensorGroup& g = p.group[s.group];
    const char* weights = p.weights + ((int64)t.m * p.steps + g.firstStep + s.chunk * g.taps + s.tap) * tile_bytes;
    for (int i = threadIdx.x * 16; i < tile_bytes; i += threads * 16) copy_async16(slots + s.slot * tile_bytes + i, weights + i, true);
    if (s.tap > 0) return;
    char* box = boxes + s.stage * p.stageBytes;
    const float* in = plane<float>(p.in, s.z);
    int part = threadIdx.x % 8, x = threadIdx.x / 8, y = 0, c = (s.chunk * 8 + part) * 4;
    for (int i = x; i < g.pitch * g.lines; i += threads / 8, x += threads / 8) {
        while (x >= g.pitch) x -= g.pitch, y++;
        int row = (t.y + y) * p.stepY + g.y, column = (t.x + x) * p.rowStep + g.x + c;
        bool inside = (unsigned)row < (unsigned)p.height;
        const float* at = in + (int64)row * p.width + column;
        char* to = swizzled(box, i, part);
        if (p.vectors) {
            bool full = inside && (unsigned)column < (unsigned)p.width && c < p.run;
            copy_async16(to, full ? at : in, full);
            continue;
        }
        for (int k = 0; k < 4; k++) {
            bool full = inside && (unsigned)(column + k) < (unsigned)p.width && c + k < p.run;
            copy_async4(to + 4 * k, full ? at + k : in, full);
        }
    }
}

KERNEL(threads, tensor80, TensorParams) {
    DYNAMIC_SHARED(char, boxes);
    char* slots = boxes + p.stages * p.stageBytes;
    int lane = threadIdx.x % 32, rows = threadIdx.x / 32 % 2 * 32, first = threadIdx.x / 64 * 4; // of the warp: 32 channels of 4 lines
    TensorTile t = tensorTile<lines, points>(p, blockIdx.x);
    float d[2][4][4] = {};
    Steps ahead(p, t.z);
    for (int i = 0; i < p.lookahead; i++) {
        if (ahead.more()) load(p, ahead, t, boxes, slots), ahead.next();
        copy_async_commit();
    }
    for (Steps s(p, t.z); s.more(); s.next()) {
        if (p.lookahead == 1) copy_async_wait<0>();
        else if (p.lookahead == 2) copy_async_wait<1>();
        else copy_async_wait<2>();
        __syncthreads();
        if (ahead.more()) load(p, ahead, t, boxes, slots), ahead.next();
        copy_async_commit();
        const TensorGroup& g = p.group[s.group];
        char *weights = slots + s.slot * tile_bytes, *box = boxes + s.stage * p.stageBytes;
        int deep = min(4, (p.run + 7) / 8 - s.chunk * 4), point = p.shift[g.firstTap + s.tap] + lane % 8;
        for (int k = 0; k < deep; k++) {
            uint32 a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_matrices(a[i], swizzled(weights, rows + i * 16 + lane % 16, k * 2 + lane / 16));
                load_matrices(b[i], swizzled(box, point + (first + i * 2 + lane / 16) * g.pitch, k * 2 + lane / 8 % 2));
#pragma unroll
                for (int j = 0; j < 4; j++) b[i][j] = __float_as_uint(round_tf32(__uint_as_float(b[i][j])));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma(d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
    }
    copy_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        TensorStore store(p, t.m * 64 + rows + i * 16 + lane / 4 * 2, t.z);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) store(t.y + first + j, t.x + lane % 4 * 2 + e, d[i][j][e], d[i][j][2 + e]);
    }
}
