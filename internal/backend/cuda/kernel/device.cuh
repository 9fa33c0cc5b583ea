// What every kernel file needs: the way kernels are declared, planes in rings, division by what does not change, and wrappers of
// instructions. The same sources are compiled by NVRTC for the GPU and, with SIMULATOR defined, by a C++ compiler for the simulator,
// which runs each thread of a block as a fiber.
#pragma once

typedef long long int64;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef unsigned short uint16;
typedef unsigned char uint8;

#ifdef SIMULATOR
#include "simulator.h"
#else
// KERNEL(threads, name, Params) { ... } is a kernel that is launched with blocks of that many threads and reads its parameters from p.
#define KERNEL(threads, name, Params) extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ Params p)
// DYNAMIC_SHARED(float, tile) is the shared memory whose size the launch gives, aligned to 128 bytes.
#define DYNAMIC_SHARED(type, name)                       \
    extern __shared__ __align__(128) char dynamic_shared_[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared_)
#endif

// INF is positive infinity.
#define INF __int_as_float(0x7f800000)

// Planes is a value with depth, or a whole tensor as a single plane: plane z is at place z modulo places. Stride is in bytes.
struct Planes {
    char* data;
    int64 stride;
    int places;
    int pad;
};

template <class T> __device__ __forceinline__ T* plane(const Planes& v, int z) {
    return reinterpret_cast<T*>(v.data + (int64)(z % v.places) * v.stride);
}

// Divide divides numbers below 2^31 by a fixed one: n / d = (n * mul) >> 32 >> shift after the method of Granlund and Montgomery (1994).
struct Divide {
    uint32 divisor, mul, shift;

    __device__ __forceinline__ uint32 quotient(uint32 n) const { return (uint32)(((uint64)n * mul) >> 32) + n >> shift; }
    // split gives quotient and remainder.
    __device__ __forceinline__ uint32 split(uint32 n, uint32& remainder) const {
        uint32 q = quotient(n);
        remainder = n - q * divisor;
        return q;
    }
};

#ifdef SIMULATOR
inline void copy_async16(void* shared, const void* global, bool full) {
    if (full) memcpy(shared, global, 16);
    else memset(shared, 0, 16);
}
inline void copy_async4(void* shared, const void* global, bool full) {
    if (full) memcpy(shared, global, 4);
    else memset(shared, 0, 4);
}
inline void copy_async_commit() {}
template <int groups> inline void copy_async_wait() {}
#else
// copy_async16 copies 16 bytes to shared memory in the background, or zeros where full is false (global is not read then).
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool full) {
#if __CUDA_ARCH__ >= 800
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    int bytes = full ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
#else
    *reinterpret_cast<float4*>(shared) = full ? *reinterpret_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}
// copy_async4 is the same for 4 bytes.
__device__ __forceinline__ void copy_async4(void* shared, const void* global, bool full) {
#if __CUDA_ARCH__ >= 800
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    int bytes = full ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(global), "r"(bytes) : "memory");
#else
    *reinterpret_cast<float*>(shared) = full ? *reinterpret_cast<const float*>(global) : 0.0f;
#endif
}
__device__ __forceinline__ void copy_async_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// copy_async_wait waits until at most groups of the committed groups are still under way.
template <int groups> __device__ __forceinline__ void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
#endif
}
#endif
