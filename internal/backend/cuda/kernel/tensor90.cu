// arch: sm_90a
// Convolutions on the tensor cores of Hopper (wgmma). Two warpgroups multiply; one loads: a thread copies tiles of weights, three warps
// load boxes, rounding on the way. Blocks stay and go from tile to tile, so that loading goes on while results are written.
#include "tensor.cuh"

// Shared memory is addressed as the instructions do it, by 32 bits.
#ifdef SIMULATOR
inline char* shared_base() { return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(simulator::current->block->shared) & ~(uintptr_t)1023); }
inline uint32 shared_address(const void* at) { return (uint32)(static_cast<const char*>(at) - shared_base()); }
inline void store_shared16(uint32 at, uint4 v) { memcpy(shared_base() + at, &v, 16); }

// Barrier is an mbarrier.
struct Barrier {
    uint8 count, pending, phase, pad;
    int bytes;
};
inline Barrier* barrier_at(uint32 at) { return reinterpret_cast<Barrier*>(shared_base() + at); }
inline void barrier_turn(Barrier* b) {
    if (b->pending == 0 && b->bytes == 0) b->pending = b->count, b->phase ^= 1;
}
inline void barrier_init(uint32 at, int count) { *barrier_at(at) = {(uint8)count, (uint8)count, 0, 0, 0}; }
inline void barrier_init_fence() {}
inline void barrier_arrive(uint32 at) {
    Barrier* b = barrier_at(at);
    b->pending--;
    barrier_turn(b);
}
inline void barrier_arrive_expect(uint32 at, int bytes) {
    barrier_at(at)->bytes += bytes;
    barrier_arrive(at);
}
inline void copy_bulk(uint32 to, const void* from, int bytes, uint32 barrier) {
    memcpy(shared_base() + to, from, bytes);
    Barrier* b = barrier_at(barrier);
    b->bytes -= bytes;
    barrier_turn(b);
}
// Who waits gives way to all others: everybody who is not at work meets here.
inline void barrier_wait(uint32 at, uint32 phase) {
    for (int i = 0; barrier_at(at)->phase == phase; i++) {
        if (i > 100000) simulator::fail(719, "barrier %u never turns", at);
        __syncthreads_and(0);
    }
}
// leave waits until all threads of the block leave, so that none is missing where others wait.
inline void leave() {
    while (!__syncthreads_and(1)) {}
}
inline void fence_async() {}
inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int groups> inline void wgmma_wait() {}
template <int registers> inline void registers_up() {}
template <int registers> inline void registers_down() {}

// matrix_row reads 32 bytes of a row of a matrix, which its descriptor gives.
template <bool half> inline void matrix_row(float* to, uint64 d, int row) {
    uint32 start = (d & 0x3fff) << 4, lead = (d >> 16 & 0x3fff) << 4, stride = (d >> 32 & 0x3fff) << 4, words[8];
    for (int part = 0; part < 2; part++) {
        uint32 at = start + row / 8 * stride;
        if (d >> 62 == 1) at += row % 8 * 128 + part * 16, at ^= (at >> 7 & 7) << 4;
        else at += row % 8 * 16 + part * lead;
        memcpy(words + part * 4, shared_base() + at, 16);
    }
    for (int i = 0; i < 8; i++) {
        if (half) to[2 * i] = __uint_as_float(words[i] << 16), to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
        else to[i] = __uint_as_float(words[i] & ~0x1fffu);
    }
}
template <int N, bool half> inline void wgmma(float (&d)[N / 2], uint64 a, uint64 b) {
    constexpr int K = half ? 16 : 8;
    float rows[2][K], column[K];
    int t = threadIdx.x % 128, lane = t % 32;
    for (int h = 0; h < 2; h++) matrix_row<half>(rows[h], a, t / 32 * 16 + lane / 4 + 8 * h);
    for (int i = 0; i < N / 8; i++)
        for (int e = 0; e < 2; e++) {
            matrix_row<half>(column, b, 8 * i + lane % 4 * 2 + e);
            for (int h = 0; h < 2; h++)
                for (int k = 0; k < K; k++) d[i * 4 + h * 2 + e] += rows[h][k] * column[k];
        }
}
template <int n> inline void wgmma_done(float (&)[n]) {}
#else
__device__ __forceinline__ uint32 shared_address(const void* at) { return (uint32)__cvta_generic_to_shared(at); }
__device__ __forceinline__ void store_shared16(uint32 at, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ __forceinline__ void barrier_init(uint32 at, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
// barrier_init_fence shows fresh barriers to the threads and to copies in the background.
__device__ __forceinline__ void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32 at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// barrier_arrive_expect arrives, and lets the barrier wait for so many bytes of copy_bulk.
__device__ __forceinline__ void barrier_arrive_expect(uint32 at, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_bulk(uint32 to, const void* from, int bytes, uint32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(barrier)
                 : "memory");
}
// barrier_wait waits for the end of the phase with that parity.
__device__ __forceinline__ void barrier_wait(uint32 at, uint32 phase) {
    asm volatile(
        "{\n\t"
        ".reg .pred done;\n\t"
        "again:\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
        "@!done bra again;\n\t"
        "}" ::"r"(at),
        "r"(phase)
        : "memory");
}
__device__ __forceinline__ void leave() {}
// fence_async shows what was stored to wgmma and to copies in the background.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int groups> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}
template <int registers> __device__ __forceinline__ void registers_up() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ __forceinline__ void registers_down() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// wgmma adds the product of 64 rows of a and N rows of b, 32 bytes of each. The macros name the N/2 registers of the sums.
#define TEN(t) "%" #t "0,%" #t "1,%" #t "2,%" #t "3,%" #t "4,%" #t "5,%" #t "6,%" #t "7,%" #t "8,%" #t "9,"
#define SUMS32 TEN() TEN(1) TEN(2) "%30,%31"
#define SUMS64 TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60,%61,%62,%63"
#define SUMS128 TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11) \
    "%120,%121,%122,%123,%124,%125,%126,%127"
#define IN8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define IN32(i) IN8(i), IN8(i + 8), IN8(i + 16), IN8(i + 24)
#define WGMMA(n, half, kind, sums, a, b, end, ...)                                                                            \
    template <> __device__ __forceinline__ void wgmma<n, half>(float (&d)[n / 2], uint64 x, uint64 w) {                       \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #n kind " {" sums "}, " a ", " b ", " end ";" : __VA_ARGS__ : "l"(x), "l"(w)); \
    }
template <int N, bool half> __device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64 a, uint64 b);
#define TF32 "k8.f32.tf32.tf32"
#define BF16 "k16.f32.bf16.bf16"
WGMMA(64, false, TF32, SUMS32, "%32", "%33", "1, 1, 1", IN32(0))
WGMMA(128, false, TF32, SUMS64, "%64", "%65", "1, 1, 1", IN32(0), IN32(32))
WGMMA(256, false, TF32, SUMS128, "%128", "%129", "1, 1, 1", IN32(0), IN32(32), IN32(64), IN32(96))
WGMMA(64, true, BF16, SUMS32, "%32", "%33", "1, 1, 1, 0, 0", IN32(0))
WGMMA(128, true, BF16, SUMS64, "%64", "%65", "1, 1, 1, 0, 0", IN32(0), IN32(32))
WGMMA(256, true, BF16, SUMS128, "%128", "%129", "1, 1, 1, 0, 0", IN32(0), IN32(32), IN32(64), IN32(96))

// wgmma_done keeps the compiler from reading sums before they were waited for.
template <int n> __device__ __forceinline__ void wgmma_done(float (&d)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++) asm volatile("" : "+f"(d[i])::"memory");
}
#endif

constexpr int tile_bytes = 8192; // of weights: 64 rows of 128 bytes

// Turn goes round the places of a pipeline.
struct Turn {
    int at = 0;
    uint32 phase = 0;

    __device__ __forceinline__ void next(int places) {
        if (++at == places) at = 0, phase ^= 1;
    }
};

// Pipeline is the shared memory of a block.
struct Pipeline {
    uint32 base;
    const TensorParams& p;
    int slotBytes;

    __device__ __forceinline__ uint32 full(int stage) const { return base + stage * 16; }
    __device__ __forceinline__ uint32 empty(int stage) const { return base + stage * 16 + 8; }
    __device__ __forceinline__ uint32 slotFull(int slot) const { return base + 512 + slot * 16; }
    __device__ __forceinline__ uint32 slotEmpty(int slot) const { return base + 512 + slot * 16 + 8; }
    __device__ __forceinline__ uint32 box(int stage) const { return base + 1024 + stage * p.stageBytes; }
    __device__ __forceinline__ uint32 slot(int slot) const { return box(p.stages) + slot * slotBytes; }
};

constexpr int loaders = 96, row_loaders = 8, load_rows = loaders / row_loaders;

// load4 loads elements c to c+3 of a run that begins at element x of a row.
__device__ __forceinline__ float4 load4(const TensorParams& p, const float* row, bool inside, int x, int c) {
    float4 v = make_float4(0, 0, 0, 0);
    if (!inside) return v;
    x += c;
    if (p.vectors) {
        if ((unsigned)x < (unsigned)p.width && c < p.run) v = __ldg(reinterpret_cast<const float4*>(row + x));
        return v;
    }
    if ((unsigned)x < (unsigned)p.width && c < p.run) v.x = __ldg(row + x);
    if ((unsigned)(x + 1) < (unsigned)p.width && c + 1 < p.run) v.y = __ldg(row + x + 1);
    if ((unsigned)(x + 2) < (unsigned)p.width && c + 2 < p.run) v.z = __ldg(row + x + 2);
    if ((unsigned)(x + 3) < (unsigned)p.width && c + 3 < p.run) v.w = __ldg(row + x + 3);
    return v;
}

// loadBox loads 128 bytes of channels, from chunk on, of the points of a box.
template <bool half> __device__ __forceinline__ void loadBox(const TensorParams& p, const TensorGroup& g, const TensorTile& t, int z, int chunk, uint32 to) {
    constexpr int batch = 8, loads = half ? 2 : 1;
    int thread = threadIdx.x - 32, part = thread % row_loaders, first = thread / row_loaders;
    int points = g.pitch * g.lines, c = (chunk * row_loaders + part) * 4 * loads;
    int y = 0, x = first;
    const float* in = plane<float>(p.in, z);
    for (int i = first; i < points; i += load_rows * batch) {
        float4 v[batch][loads];
#pragma unroll
        for (int b = 0; b < batch; b++) {
            while (x >= g.pitch) x -= g.pitch, y++;
            int row = (t.y + y) * p.stepY + g.y, column = (t.x + x) * p.rowStep + g.x;
            bool inside = i + b * load_rows < points && (unsigned)row < (unsigned)p.height;
            const float* at = in + (int64)row * p.width;
#pragma unroll
            for (int k = 0; k < loads; k++) v[b][k] = load4(p, at, inside, column, c + 4 * k);
            x += load_rows;
        }
#pragma unroll
        for (int b = 0; b < batch; b++) {
            int point = i + b * load_rows;
            if (point >= points) break;
            uint4 w;
            if (half) {
                float4 low = v[b][0], high = v[b][loads - 1];
                w = make_uint4(pack_bf16(low.x, low.y), pack_bf16(low.z, low.w), pack_bf16(high.x, high.y), pack_bf16(high.z, high.w));
            } else {
                float4 r = v[b][0];
                w = make_uint4(__float_as_uint(round_tf32(r.x)), __float_as_uint(round_tf32(r.y)), __float_as_uint(round_tf32(r.z)),
                               __float_as_uint(round_tf32(r.w)));
            }
            store_shared16(to + point * p.pointBytes + (part ^ (point & p.swizzle)) * p.chunkBytes, w);
        }
    }
}

// tensor90 computes tiles of N lattice points for each of two warpgroups: the same points for 64 channels each, or where split is true
// points side by side for the same 64 channels.
template <int N, bool split, bool half> __device__ __forceinline__ void tensor90(const TensorParams& p) {
    constexpr int lines = N / 8, points = split ? 16 : 8, mtiles = split ? 1 : 2;
    DYNAMIC_SHARED(char, memory);
    Pipeline s{(shared_address(memory) + 1023) / 1024 * 1024, p, mtiles * tile_bytes};
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.stages; i++) barrier_init(s.full(i), loaders), barrier_init(s.empty(i), 8);
        for (int i = 0; i < p.slots; i++) barrier_init(s.slotFull(i), 1), barrier_init(s.slotEmpty(i), 8);
        barrier_init_fence();
    }
    __syncthreads();
    int group = threadIdx.x / 128;
    if (group == 0) {
        if (N == 256) registers_down<104>();
        if (threadIdx.x == 0) {
            Turn turn;
            for (int number = blockIdx.x; number < p.tiles; number += gridDim.x) {
                TensorTile t = tensorTile<lines, points>(p, number);
                int some = min(mtiles, p.mtiles - t.m * mtiles);
                const char* weights = p.weights + (int64)t.m * mtiles * p.steps * tile_bytes;
                for (int z, g = tensorGroup(p, 0, t.z, z); g < p.groups; g = tensorGroup(p, g + 1, t.z, z)) {
                    const char* from = weights + (int64)p.group[g].firstStep * tile_bytes;
                    for (int i = p.group[g].taps * p.chunks; i > 0; i--, from += tile_bytes) {
                        barrier_wait(s.slotEmpty(turn.at), turn.phase ^ 1);
                        barrier_arrive_expect(s.slotFull(turn.at), some * tile_bytes);
                        copy_bulk(s.slot(turn.at), from, tile_bytes, s.slotFull(turn.at));
                        if (some > 1) copy_bulk(s.slot(turn.at) + tile_bytes, from + (int64)p.steps * tile_bytes, tile_bytes, s.slotFull(turn.at));
                        turn.next(p.slots);
                    }
                }
            }
        } else if (threadIdx.x >= 32) {
            Turn turn;
            for (int number = blockIdx.x; number < p.tiles; number += gridDim.x) {
                TensorTile t = tensorTile<lines, points>(p, number);
                for (int z, g = tensorGroup(p, 0, t.z, z); g < p.groups; g = tensorGroup(p, g + 1, t.z, z)) {
                    for (int chunk = 0; chunk < p.chunks; chunk++) {
                        barrier_wait(s.empty(turn.at), turn.phase ^ 1);
                        loadBox<half>(p, p.group[g], t, z, chunk, s.box(turn.at));
                        fence_async();
                        barrier_arrive(s.full(turn.at));
                        turn.next(p.stages);
                    }
                }
            }
        }
    } else {
        if (N == 256) registers_up<200>();
        group--;
        int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
        // Weights: rows of 128 bytes, swizzled, 8 of them 1024 bytes from the next 8. Points: the same, or planes of 16 bytes of all points.
        uint64 weights = (uint64)1 << 62 | (uint64)(1024 >> 4) << 32 | (uint64)1 << 16;
        uint64 box = p.swizzle ? (uint64)1 << 62 | (uint64)1 << 16 : (uint64)(p.chunkBytes >> 4) << 16;
        int advance = p.swizzle ? 2 : 2 * (p.chunkBytes >> 4); // from 32 bytes of channels to the next, in the descriptor's units
        Turn turn, slot;
        for (int number = blockIdx.x; number < p.tiles; number += gridDim.x) {
            TensorTile t = tensorTile<lines, points>(p, number);
            int mtile = split ? t.m : t.m * 2 + group;
            bool active = mtile < p.mtiles;
            float d[N / 2];
#pragma unroll
            for (int i = 0; i < N / 2; i++) d[i] = 0;
            int heldStage = -1, heldSlot = -1; // of the step before, which may still be read
            for (int z, g = tensorGroup(p, 0, t.z, z); g < p.groups; g = tensorGroup(p, g + 1, t.z, z)) {
                int taps = p.group[g].taps;
                const uint16* shift = p.shift + p.group[g].firstTap;
                uint64 rows = box | (uint64)(p.group[g].pitch * p.pointBytes >> 4) << 32;
                for (int chunk = 0; chunk < p.chunks; chunk++) {
                    barrier_wait(s.full(turn.at), turn.phase);
                    int left = (p.run + (half ? 15 : 7)) / (half ? 16 : 8) - chunk * 4;
                    uint32 at = s.box(turn.at) + (split ? group * 8 * p.pointBytes : 0);
                    for (int tap = 0; tap < taps; tap++) {
                        barrier_wait(s.slotFull(slot.at), slot.phase);
                        wgmma_fence();
                        if (active) {
                            uint64 a = weights | (s.slot(slot.at) + (split ? 0 : group * tile_bytes)) >> 4;
                            uint64 b = rows | (at + shift[tap] * p.pointBytes) >> 4;
                            wgmma<N, half>(d, a, b);
                            if (left > 1) wgmma<N, half>(d, a + 2, b + advance);
                            if (left > 2) wgmma<N, half>(d, a + 4, b + 2 * advance);
                            if (left > 3) wgmma<N, half>(d, a + 6, b + 3 * advance);
                        }
                        wgmma_commit();
                        wgmma_wait<1>();
                        if (lane == 0) {
                            if (heldSlot >= 0) barrier_arrive(s.slotEmpty(heldSlot));
                            if (tap == 0 && heldStage >= 0) barrier_arrive(s.empty(heldStage));
                        }
                        heldSlot = slot.at;
                        slot.next(p.slots);
                    }
                    heldStage = turn.at;
                    turn.next(p.stages);
                }
            }
            wgmma_wait<0>();
            wgmma_done(d);
            if (lane == 0) {
                if (heldSlot >= 0) barrier_arrive(s.slotEmpty(heldSlot));
                if (heldStage >= 0) barrier_arrive(s.empty(heldStage));
            }
            if (!active) continue;
            TensorStore store(p, mtile * 64 + warp * 16 + lane / 4 * 2, t.z);
            int x = t.x + (split ? group * 8 : 0) + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < lines; i++)
#pragma unroll
                for (int e = 0; e < 2; e++) store(t.y + i, x + e, d[i * 4 + e], d[i * 4 + 2 + e]);
        }
    }
    leave();
}

#define TENSOR90(n)                                                                             \
    KERNEL(384, tensor90_tf32_##n, TensorParams) { tensor90<n, false, false>(p); }              \
    KERNEL(384, tensor90_tf32_##n##_split, TensorParams) { tensor90<n, true, false>(p); }       \
    KERNEL(384, tensor90_bf16_##n, TensorParams) { tensor90<n, false, true>(p); }               \
    KERNEL(384, tensor90_bf16_##n##_split, TensorParams) { tensor90<n, true, true>(p); }
TENSOR90(64)
TENSOR90(128)
TENSOR90(256)
