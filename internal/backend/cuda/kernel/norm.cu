// Norms with live statistics.
#include "sums.cuh"

KERNEL(256, columns_Moments, ColumnParams) { columns<Moments>(p); }
KERNEL(256, columns_Dots, ColumnParams) { columns<Dots>(p); }

// GroupParams are of what makes statistics of groups from sums by channel, [samples][chunks][2][channels]. Moments of a group are the
// mean, what rounding took off it, and the inverse deviation; means are those of g = dy*gamma and of g*h, h being the normalised x.
struct GroupParams {
    const double* sums;
    const float* moments; // [samples][groups][3], for means
    const float* gamma;   // may be null
    float* out;           // moments, or means [samples][groups][2]
    double count, eps;    // elements of a group
    int chunks, channels, groups;
};

template <int threads> __device__ __forceinline__ double block_sum(double v, double* shared) {
    for (int reach = 16; reach > 0; reach /= 2) v += __shfl_xor_sync(0xffffffff, v, reach);
    if (threads == 32) return v;
    __syncthreads(); // what was in shared has been read
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
    for (int k = 1; k < threads / 32; k++) v += shared[k];
    return v;
}

// group_moments has a block for each group and sample.
KERNEL(128, group_moments, GroupParams) {
    __shared__ double shared[4];
    int group = blockIdx.x, sample = blockIdx.y, members = p.channels / p.groups;
    const double* sums = p.sums + (int64)sample * p.chunks * 2 * p.channels + group * members;
    double sum = 0, squares = 0;
    for (int i = threadIdx.x; i < p.chunks * members; i += 128) {
        int64 at = (int64)(i / members) * 2 * p.channels + i % members;
        sum += sums[at], squares += sums[at + p.channels];
    }
    sum = block_sum<128>(sum, shared), squares = block_sum<128>(squares, shared);
    if (threadIdx.x > 0) return;
    double mean = sum / p.count, variance = squares / p.count - mean * mean;
    float* out = p.out + ((int64)sample * p.groups + group) * 3;
    out[0] = (float)mean, out[1] = (float)(mean - (double)out[0]);
    out[2] = (float)(1 / sqrt((variance > 0 ? variance : 0) + p.eps));
}

KERNEL(128, group_means, GroupParams) {
    __shared__ double shared[4];
    int group = blockIdx.x, sample = blockIdx.y, members = p.channels / p.groups;
    const double* sums = p.sums + (int64)sample * p.chunks * 2 * p.channels + group * members;
    const float* moments = p.moments + ((int64)sample * p.groups + group) * 3;
    double mean = (double)moments[0] + (double)moments[1], sum = 0, along = 0;
    for (int i = threadIdx.x; i < p.chunks * members; i += 128) {
        int64 at = (int64)(i / members) * 2 * p.channels + i % members;
        double factor = p.gamma ? (double)p.gamma[group * members + i % members] : 1.0;
        sum += factor * sums[at], along += factor * (sums[at + p.channels] - mean * sums[at]);
    }
    sum = block_sum<128>(sum, shared), along = block_sum<128>(along, shared);
    if (threadIdx.x > 0) return;
    float* out = p.out + ((int64)sample * p.groups + group) * 2;
    out[0] = (float)(sum / p.count), out[1] = (float)(along * (double)moments[2] / p.count);
}

// ApplyParams are of what applies statistics. BlockIdx.z is the sample.
struct ApplyParams {
    Planes dy, x, y;
    const float *moments, *means, *gamma, *beta; // the last two may be null
    Rows rows;
    int z0, channels, groups;
    Divide members;
};

KERNEL(256, group_apply, ApplyParams) {
    int z = p.z0 + blockIdx.y;
    int64 sample = (int64)blockIdx.z * p.rows.rows * p.channels;
    const float *x = plane<float>(p.x, z) + sample, *moments = p.moments + (int64)blockIdx.z * p.groups * 3;
    rows<true>(plane<float>(p.y, z) + sample, p.rows, [&](int channel, auto width) {
        decltype(load(x, width)) mean, scale, shift;
        const int n = sizeof(mean) / 4;
#pragma unroll
        for (int k = 0; k < n; k++) {
            int c = channel + k;
            const float* m = moments + 3 * p.members.quotient(c);
            mean.v[k] = m[0];
            scale.v[k] = p.gamma ? m[2] * p.gamma[c] : m[2];
            shift.v[k] = (p.beta ? p.beta[c] : 0.0f) - m[1] * scale.v[k];
        }
        return [=](int64 i, int) {
            auto v = load(x + i, width);
#pragma unroll
            for (int k = 0; k < n; k++) v.v[k] = (v.v[k] - mean.v[k]) * scale.v[k] + shift.v[k];
            return v;
        };
    });
}

// group_grad_apply computes (dy*gamma - means[0] - (x - mean)*r*means[1])*r, r being the inverse deviation.
KERNEL(256, group_grad_apply, ApplyParams) {
    int z = p.z0 + blockIdx.y;
    int64 sample = (int64)blockIdx.z * p.rows.rows * p.channels;
    const float *dy = plane<float>(p.dy, z) + sample, *x = plane<float>(p.x, z) + sample;
    const float *moments = p.moments + (int64)blockIdx.z * p.groups * 3, *means = p.means + (int64)blockIdx.z * p.groups * 2;
    rows<true>(plane<float>(p.y, z) + sample, p.rows, [&](int channel, auto width) {
        decltype(load(x, width)) mean, scale, slope, shift;
        const int n = sizeof(mean) / 4;
#pragma unroll
        for (int k = 0; k < n; k++) {
            int c = channel + k, group = p.members.quotient(c);
            double r = moments[3 * group + 2], along = (double)means[2 * group + 1] * r * r;
            mean.v[k] = moments[3 * group];
            scale.v[k] = (float)(p.gamma ? (double)p.gamma[c] * r : r);
            slope.v[k] = (float)along;
            shift.v[k] = (float)((double)moments[3 * group + 1] * along - (double)means[2 * group] * r);
        }
        return [=](int64 i, int) {
            auto g = load(dy + i, width), v = load(x + i, width);
#pragma unroll
            for (int k = 0; k < n; k++) g.v[k] = g.v[k] * scale.v[k] + (shift.v[k] - (v.v[k] - mean.v[k]) * slope.v[k]);
            return g;
        };
    });
}

struct LayerNormParams {
    Planes dy, x, y;
    const float *gamma, *beta; // may be null
    double eps;
    int z0, rows, size;
};

// layer_row finds the row of x that threads threads share, and its statistics; false if there is none.
template <int threads> __device__ __forceinline__ bool layer_row(const LayerNormParams& p, const float*& x, int64& at, double& mean, double& inverse, double* shared) {
    int row = threads == 32 ? blockIdx.x * 8 + threadIdx.x / 32 : blockIdx.x;
    if (row >= p.rows) return false; // all threads of the row, or none
    at = (int64)row * p.size;
    x = plane<float>(p.x, p.z0 + blockIdx.y) + at;
    double sum = 0, squares = 0;
    for (int i = threadIdx.x % threads; i < p.size; i += threads) sum += (double)x[i], squares += (double)x[i] * (double)x[i];
    mean = block_sum<threads>(sum, shared) / p.size;
    double variance = block_sum<threads>(squares, shared) / p.size - mean * mean;
    inverse = 1 / sqrt((variance > 0 ? variance : 0) + p.eps);
    return true;
}

template <int threads> __device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
    __shared__ double shared[8];
    const float* x;
    int64 at;
    double mean, inverse;
    if (!layer_row<threads>(p, x, at, mean, inverse, shared)) return;
    float* y = plane<float>(p.y, p.z0 + blockIdx.y) + at;
    float near = (float)mean, scale = (float)inverse, shift = (float)(((double)near - mean) * inverse);
    for (int i = threadIdx.x % threads; i < p.size; i += threads) {
        float h = (x[i] - near) * scale + shift;
        y[i] = (p.gamma ? h * p.gamma[i] : h) + (p.beta ? p.beta[i] : 0.0f);
    }
}

template <int threads> __device__ __forceinline__ void layer_norm_backward(const LayerNormParams& p) {
    __shared__ double shared[8];
    const float* x;
    int64 at;
    double mean, inverse, sum = 0, along = 0;
    if (!layer_row<threads>(p, x, at, mean, inverse, shared)) return;
    const float* dy = plane<float>(p.dy, p.z0 + blockIdx.y) + at;
    float* dx = plane<float>(p.y, p.z0 + blockIdx.y) + at;
    for (int i = threadIdx.x % threads; i < p.size; i += threads) {
        double g = p.gamma ? (double)dy[i] * (double)p.gamma[i] : (double)dy[i];
        sum += g, along += g * ((double)x[i] - mean);
    }
    sum = block_sum<threads>(sum, shared) / p.size;
    along = block_sum<threads>(along, shared) * inverse * inverse / p.size;
    for (int i = threadIdx.x % threads; i < p.size; i += threads) {
        double g = p.gamma ? (double)dy[i] * (double)p.gamma[i] : (double)dy[i];
        dx[i] = (float)((g - sum - ((double)x[i] - mean) * along) * inverse);
    }
}

KERNEL(256, layer_norm_warp, LayerNormParams) { layer_norm<32>(p); }
KERNEL(256, layer_norm_block, LayerNormParams) { layer_norm<256>(p); }
KERNEL(256, layer_norm_backward_warp, LayerNormParams) { layer_norm_backward<32>(p); }
KERNEL(256, layer_norm_backward_block, LayerNormParams) { layer_norm_backward<256>(p); }
