// The dialect of CUDA C that the kernels are written in, for a C++ compiler. Each thread of a block is a fiber: it runs until it has to
// wait for others (see fiber.cpp). Blocks run on a few threads of the system. The instructions round as the device's do; functions of the
// mathematical library differ from it by their rounding.
#pragma once

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __global__
#define __constant__
#define __shared__ static thread_local
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace simulator {

struct Block;

// Thread is the part of a kernel's thread that kernels see. The rest of it is in fiber.cpp.
struct Thread {
    uint3 thread;
    unsigned linear; // number within the block
    Block* block;
};

struct Block {
    uint3 block;
    dim3 threads, grid;
    char* shared; // dynamic shared memory
};

// current is the thread that runs. It and the shared memory are all that the library has for each thread of the system.
extern thread_local Thread* current __attribute__((visibility("hidden")));

// Kernel is a row of the table of kernels.
struct Kernel {
    const char* name;
    unsigned threads;
    size_t bytes; // of the parameters
    void (*run)(const void* params);
    Kernel* next;
    Kernel(const char* name, unsigned threads, size_t bytes, void (*run)(const void*));
    // The part of the shared memory that the kernel was seen to use, which is poisoned before each block.
    size_t low = ~(size_t)0, high = 0;
    unsigned launches = 0;
};

void barrier();                                     // all threads of the block
int barrier_sum(int value);                         // the same, and the sum of the values
void meet(unsigned mask);                           // threads of the warp
uint64_t exchange(unsigned mask, uint64_t v, int from); // threads of the warp: the value that lane from brings
unsigned vote(unsigned mask, bool v);               // threads of the warp: a bit for each that brings true
[[noreturn]] void fail(int code, const char* format, ...) __attribute__((format(printf, 2, 3)));

inline unsigned lane() { return current->linear % 32; }

template <class T> T shuffle(unsigned mask, T v, int from) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &v, sizeof v);
    bits = exchange(mask, bits, from);
    memcpy(&v, &bits, sizeof v);
    return v;
}

template <class To, class From> To cast(From v) {
    static_assert(sizeof(To) == sizeof(From), "");
    To r;
    memcpy(&r, &v, sizeof r);
    return r;
}

// Same keeps a parameter out of the deduction of T.
template <class T> using Same = std::common_type_t<T>;

template <class T, class F> T atomic(T* at, F f) {
    using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    Word* word = reinterpret_cast<Word*>(at);
    Word old = __atomic_load_n(word, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(word, &old, cast<Word>(f(cast<T>(old))), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return cast<T>(old);
}

} // namespace simulator

#define threadIdx (simulator::current->thread)
#define blockIdx (simulator::current->block->block)
#define blockDim (simulator::current->block->threads)
#define gridDim (simulator::current->block->grid)
#define warpSize 32

// KERNEL and DYNAMIC_SHARED are explained where device.cuh has them for the device.
#define KERNEL(threads, name, Params) SIMULATOR_KERNEL(threads, name, Params)
#define SIMULATOR_KERNEL(threads, name, Params)                                                                                          \
    static void name(const Params& p);                                                                                                   \
    static simulator::Kernel name##_row_(#name, threads, sizeof(Params), [](const void* p) { name(*static_cast<const Params*>(p)); });   \
    static void name(const Params& p)
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(simulator::current->block->shared)

// Vectors. uint3 is above.
#define SIMULATOR_VECTORS(type, name)                                                        \
    struct name##1 { type x; };                                                              \
    struct __align__(2 * sizeof(type)) name##2 { type x, y; };                               \
    struct __align__(4 * sizeof(type) > 16 ? 16 : 4 * sizeof(type)) name##4 { type x, y, z, w; }; \
    inline name##1 make_##name##1(type x) { return {x}; }                                    \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                         \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define SIMULATOR_VECTOR3(type, name) struct name { type x, y, z; };
#define SIMULATOR_MAKE3(type, name) inline name make_##name(type x, type y, type z) { return {x, y, z}; }
SIMULATOR_VECTORS(signed char, char)
SIMULATOR_VECTORS(unsigned char, uchar)
SIMULATOR_VECTORS(short, short)
SIMULATOR_VECTORS(unsigned short, ushort)
SIMULATOR_VECTORS(int, int)
SIMULATOR_VECTORS(unsigned, uint)
SIMULATOR_VECTORS(float, float)
SIMULATOR_VECTORS(double, double)
SIMULATOR_VECTORS(long long, longlong)
SIMULATOR_VECTORS(unsigned long long, ulonglong)
SIMULATOR_VECTOR3(unsigned char, uchar3)
SIMULATOR_VECTOR3(int, int3)
SIMULATOR_VECTOR3(float, float3)
SIMULATOR_VECTOR3(double, double3)
SIMULATOR_MAKE3(unsigned char, uchar3)
SIMULATOR_MAKE3(int, int3)
SIMULATOR_MAKE3(unsigned, uint3)
SIMULATOR_MAKE3(float, float3)
SIMULATOR_MAKE3(double, double3)

// Waiting for others.
inline void __syncthreads() { simulator::barrier(); }
inline int __syncthreads_count(int v) { return simulator::barrier_sum(v != 0); }
inline int __syncthreads_or(int v) { return simulator::barrier_sum(v != 0) != 0; }
inline int __syncthreads_and(int v) { return simulator::barrier_sum(v == 0) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { simulator::meet(mask); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { simulator::fail(719, "__trap"); }

// Exchange within a warp. Lanes are counted within groups of width.
template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    int base = simulator::lane() & ~(width - 1);
    return simulator::shuffle(mask, v, base + (from & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
    int lane = simulator::lane(), from = lane ^ bits;
    return simulator::shuffle(mask, v, (from & ~(width - 1)) <= (lane & ~(width - 1)) ? from : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
    int lane = simulator::lane(), from = lane - (int)by;
    return simulator::shuffle(mask, v, from >= (lane & ~(width - 1)) ? from : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
    int lane = simulator::lane(), from = lane + (int)by;
    return simulator::shuffle(mask, v, from <= (lane | (width - 1)) ? from : lane);
}
inline unsigned __ballot_sync(unsigned mask, int v) { return simulator::vote(mask, v != 0); }
inline int __any_sync(unsigned mask, int v) { return simulator::vote(mask, v != 0) != 0; }
inline int __all_sync(unsigned mask, int v) { return simulator::vote(mask, v == 0) == 0; }

// Atomic operations give the value before.
inline int atomicAdd(int* at, int v) { return __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* at, unsigned v) { return __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long v) { return __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
inline float atomicAdd(float* at, float v) { return simulator::atomic(at, [v](float o) { return o + v; }); }
inline double atomicAdd(double* at, double v) { return simulator::atomic(at, [v](double o) { return o + v; }); }
template <class T> T atomicSub(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return o - v; }); }
template <class T> T atomicMax(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return o < v ? v : o; }); }
template <class T> T atomicMin(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return v < o ? v : o; }); }
template <class T> T atomicAnd(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return o & v; }); }
template <class T> T atomicOr(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return o | v; }); }
template <class T> T atomicXor(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T o) { return o ^ v; }); }
template <class T> T atomicExch(T* at, simulator::Same<T> v) { return simulator::atomic(at, [v](T) { return v; }); }
template <class T> T atomicCAS(T* at, simulator::Same<T> expected, simulator::Same<T> v) { return simulator::atomic(at, [=](T o) { return o == expected ? v : o; }); }
inline unsigned atomicInc(unsigned* at, unsigned v) { return simulator::atomic(at, [v](unsigned o) { return o >= v ? 0 : o + 1; }); }

// Loads and stores with hints for the caches.
template <class T> T __ldg(const T* at) { return *at; }
template <class T> T __ldca(const T* at) { return *at; }
template <class T> T __ldcg(const T* at) { return *at; }
template <class T> T __ldcs(const T* at) { return *at; }
template <class T> T __ldlu(const T* at) { return *at; }
template <class T> T __ldcv(const T* at) { return *at; }
template <class T> void __stwb(T* at, T v) { *at = v; }
template <class T> void __stcg(T* at, T v) { *at = v; }
template <class T> void __stcs(T* at, T v) { *at = v; }
template <class T> void __stwt(T* at, T v) { *at = v; }

// Bits.
inline int __float_as_int(float v) { return simulator::cast<int>(v); }
inline unsigned __float_as_uint(float v) { return simulator::cast<unsigned>(v); }
inline float __int_as_float(int v) { return simulator::cast<float>(v); }
inline float __uint_as_float(unsigned v) { return simulator::cast<float>(v); }
inline long long __double_as_longlong(double v) { return simulator::cast<long long>(v); }
inline double __longlong_as_double(long long v) { return simulator::cast<double>(v); }
inline int __double2hiint(double v) { return (int)(simulator::cast<uint64_t>(v) >> 32); }
inline int __double2loint(double v) { return (int)simulator::cast<uint64_t>(v); }
inline double __hiloint2double(int high, int low) { return simulator::cast<double>((uint64_t)(uint32_t)high << 32 | (uint32_t)low); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned choice) {
    uint64_t both = (uint64_t)high << 32 | low;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned c = choice >> 4 * i, byte = (unsigned)(both >> 8 * (c & 7)) & 0xff;
        if (c & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << 8 * i;
    }
    return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) << (by & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (by & 31));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) { return (int)((unsigned)(a << 8 >> 8) * (unsigned)(b << 8 >> 8)); }
inline unsigned __umul24(unsigned a, unsigned b) { return (a & 0xffffff) * (b & 0xffffff); }

// Arithmetic with a given rounding: to nearest unless the name says otherwise.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return (float)(1 / sqrt((double)a)); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline double __dsqrt_rn(double a) { return sqrt(a); }
inline float rsqrtf(float a) { return (float)(1 / sqrt((double)a)); }
inline double rsqrt(double a) { return 1 / sqrt(a); }
inline float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1) : 0; }
inline float fdividef(float a, float b) { return a / b; }
inline float sinpif(float a) { return (float)sin(M_PI * fmod((double)a, 2)); }
inline float cospif(float a) { return (float)cos(M_PI * fmod((double)a, 2)); }
inline void sincospif(float a, float* s, float* c) { *s = sinpif(a), *c = cospif(a); }

// Conversions: _rn rounds to nearest, _rz towards zero, _rd down, _ru up. What does not fit becomes the nearest that does, NaN becomes 0.
namespace simulator {
template <class To> To convert(double v) {
    if (v != v) return 0;
    const double low = (double)std::numeric_limits<To>::min(), high = ldexp(1, std::numeric_limits<To>::digits);
    return v <= low ? std::numeric_limits<To>::min() : v >= high ? std::numeric_limits<To>::max() : (To)v;
}
} // namespace simulator
#define SIMULATOR_CONVERSIONS(name, type)                                                \
    inline type __float2##name##_rn(float v) { return simulator::convert<type>(rint(v)); }  \
    inline type __float2##name##_rz(float v) { return simulator::convert<type>(trunc(v)); } \
    inline type __float2##name##_rd(float v) { return simulator::convert<type>(floor(v)); } \
    inline type __float2##name##_ru(float v) { return simulator::convert<type>(ceil(v)); }  \
    inline type __double2##name##_rn(double v) { return simulator::convert<type>(rint(v)); }  \
    inline type __double2##name##_rz(double v) { return simulator::convert<type>(trunc(v)); } \
    inline type __double2##name##_rd(double v) { return simulator::convert<type>(floor(v)); } \
    inline type __double2##name##_ru(double v) { return simulator::convert<type>(ceil(v)); }
SIMULATOR_CONVERSIONS(int, int)
SIMULATOR_CONVERSIONS(uint, unsigned)
SIMULATOR_CONVERSIONS(ll, long long)
SIMULATOR_CONVERSIONS(ull, unsigned long long)
inline float __int2float_rn(int v) { return (float)v; }
inline float __uint2float_rn(unsigned v) { return (float)v; }
inline float __ll2float_rn(long long v) { return (float)v; }
inline float __ull2float_rn(unsigned long long v) { return (float)v; }
inline float __double2float_rn(double v) { return (float)v; }
inline double __int2double_rn(int v) { return v; }
inline double __uint2double_rn(unsigned v) { return v; }
inline double __ll2double_rn(long long v) { return (double)v; }
inline double __ull2double_rn(unsigned long long v) { return (double)v; }

// The smaller and the larger of two numbers: of floating-point ones, the one that is a number.
#define SIMULATOR_MINMAX(type, a, b)                            \
    inline type min(a x, b y) { return (type)y < (type)x ? (type)y : (type)x; } \
    inline type max(a x, b y) { return (type)x < (type)y ? (type)y : (type)x; }
SIMULATOR_MINMAX(int, int, int)
SIMULATOR_MINMAX(unsigned, unsigned, unsigned)
SIMULATOR_MINMAX(unsigned, int, unsigned)
SIMULATOR_MINMAX(unsigned, unsigned, int)
SIMULATOR_MINMAX(long, long, long)
SIMULATOR_MINMAX(unsigned long, unsigned long, unsigned long)
SIMULATOR_MINMAX(long long, long long, long long)
SIMULATOR_MINMAX(unsigned long long, unsigned long long, unsigned long long)
#undef SIMULATOR_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(double a, float b) { return fmax(a, b); }

inline long long clock64() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}
