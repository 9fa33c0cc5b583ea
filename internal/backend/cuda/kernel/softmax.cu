// Softmax along an axis, its logarithm, and their gradients.
#include "device.cuh"

struct SoftmaxParams {
    Planes x, s, y; // x or dy; for gradients s is the saved output
    int z0, lines, size;
    Divide inner; // elements from one of a line to the next
};

// Line is what threads threads, of a warp or a block, or a single one, go through.
template <int threads> struct Line {
    double* shared;

    __device__ __forceinline__ int lane() const { return threadIdx.x % threads; }
    template <class Join> __device__ __forceinline__ double join(double v, Join f) const {
        for (int reach = (threads < 32 ? threads : 32) / 2; reach > 0; reach /= 2) v = f(v, __shfl_xor_sync(0xffffffff, v, reach));
        if (threads <= 32) return v;
        __syncthreads(); // what was in shared has been read
        if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
        __syncthreads();
        v = shared[0];
        for (int k = 1; k < threads / 32; k++) v = f(v, shared[k]);
        return v;
    }
    __device__ __forceinline__ double sum(double v) const {
        return join(v, [](double a, double b) { return a + b; });
    }
    __device__ __forceinline__ float max(float v) const {
        return (float)join((double)v, [](double a, double b) { return a > b || a != a ? a : b; });
    }
};

template <int threads> __device__ __forceinline__ float largest(const Line<threads>& line, const float* x, int size, int64 stride) {
    float top = -INF;
    for (int i = line.lane(); i < size; i += threads) {
        float v = x[i * stride];
        top = v > top || v != v ? v : top;
    }
    return line.max(top);
}

// Functions of a line; y may be x.
struct SoftmaxF {
    template <int threads> static __device__ void of(const Line<threads>& line, const float* x, const float*, float* y, int size, int64 stride) {
        float top = largest(line, x, size, stride);
        double sum = 0;
        for (int i = line.lane(); i < size; i += threads) sum += (double)expf(x[i * stride] - top);
        float factor = (float)(1 / line.sum(sum));
        for (int i = line.lane(); i < size; i += threads) y[i * stride] = expf(x[i * stride] - top) * factor;
    }
};
struct LogSoftmaxF {
    template <int threads> static __device__ void of(const Line<threads>& line, const float* x, const float*, float* y, int size, int64 stride) {
        float top = largest(line, x, size, stride);
        double sum = 0;
        for (int i = line.lane(); i < size; i += threads) sum += (double)expf(x[i * stride] - top);
        sum = (double)top + log(line.sum(sum));
        for (int i = line.lane(); i < size; i += threads) y[i * stride] = (float)((double)x[i * stride] - sum);
    }
};
struct SoftmaxBackwardF {
    template <int threads> static __device__ void of(const Line<threads>& line, const float* dy, const float* s, float* dx, int size, int64 stride) {
        double along = 0;
        for (int i = line.lane(); i < size; i += threads) along += (double)dy[i * stride] * (double)s[i * stride];
        along = line.sum(along);
        for (int i = line.lane(); i < size; i += threads)
            dx[i * stride] = (float)((double)s[i * stride] * ((double)dy[i * stride] - along));
    }
};
struct LogSoftmaxBackwardF {
    template <int threads> static __device__ void of(const Line<threads>& line, const float* dy, const float* s, float* dx, int size, int64 stride) {
        double sum = 0;
        for (int i = line.lane(); i < size; i += threads) sum += (double)dy[i * stride];
        sum = line.sum(sum);
        for (int i = line.lane(); i < size; i += threads)
            dx[i * stride] = (float)((double)dy[i * stride] - (double)expf(s[i * stride]) * sum);
    }
};

template <class F, int threads> __device__ __forceinline__ void lines(const SoftmaxParams& p) {
    __shared__ double shared[8];
    int z = p.z0 + blockIdx.y, number = blockIdx.x * (256 / threads) + threadIdx.x / threads;
    if (number >= p.lines) return; // all threads of a line, or none
    uint32 inner, outer = p.inner.split(number, inner);
    int64 at = (int64)outer * p.size * p.inner.divisor + inner;
    F::of(Line<threads>{shared}, plane<float>(p.x, z) + at, plane<float>(p.s, z) + at, plane<float>(p.y, z) + at, p.size, (int64)p.inner.divisor);
}

#define LINES(name)                                                          \
    KERNEL(256, name##_1, SoftmaxParams) { lines<name##F, 1>(p); }           \
    KERNEL(256, name##_32, SoftmaxParams) { lines<name##F, 32>(p); }         \
    KERNEL(256, name##_256, SoftmaxParams) { lines<name##F, 256>(p); }

LINES(Softmax)
LINES(LogSoftmax)
LINES(SoftmaxBackward)
LINES(LogSoftmaxBackward)
