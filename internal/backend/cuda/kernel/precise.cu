// Small convolutions, the sums of which are taken in float64: they cost nothing, and what follows them depends on them much.
#include "conv.cuh"

// preciseTerm is term k of the sum for a column, and a point at input coordinates (z, y, x) for tap 0.
__device__ __forceinline__ double preciseTerm(const ConvParams& p, int z, int y, int x, int group, int column, int k) {
    const Lattice& l = p.l;
    uint32 c, inPlane, tx;
    const int tap = p.depth.split(k, c);
    if (tap >= p.taps || c >= (uint32)l.cin) return 0;
    const int tz = p.tapArea.split(tap, inPlane), ty = p.tapWidth.split(inPlane, tx);
    const float* voxel = latticeSource(l, z + tz * l.tapStep[0], y + ty * l.tapStep[1], x + (int)tx * l.tapStep[2]);
    if (!voxel) return 0;
    return (double)voxel[group * l.cin + c] * (double)l.weights[(int64)(group * p.steps * 8 + k) * p.columns + column];
}

__device__ __forceinline__ void preciseStore(const Lattice& l, int z, int y, int x, int channel, double sum) {
    if (l.bias) sum += l.bias[channel];
    if (l.residual.data) sum += reinterpret_cast<const float*>(latticeRow(l, l.residual, z, y, x))[channel];
    reinterpret_cast<float*>(latticeRow(l, l.out, z, y, x))[channel] = activate(l.activation, (float)sum);
}

// conv_precise takes each sum in one thread.
KERNEL(128, conv_precise, ConvParams) {
    const Lattice& l = p.l;
    const int i = blockIdx.x * 128 + threadIdx.x;
    if (i >= l.points * (int)p.total.divisor) return;
    uint32 channel;
    const int point = p.total.split(i, channel);
    const int group = channel / l.cout, column = channel % l.cout;
    int z, y, x;
    latticePoint(l, point, z, y, x);
    const int z0 = z * l.inStep[0] + l.tapStart[0], y0 = y * l.inStep[1] + l.tapStart[1], x0 = x * l.inStep[2] + l.tapStart[2];
    double sum = 0;
    for (int k = 0; k < 8 * p.steps; k++) sum += preciseTerm(p, z0, y0, x0, group, column, k);
    preciseStore(l, z, y, x, channel, sum);
}

// conv_precise_deep cuts long sums into 32, for one point and 8 columns a block.
KERNEL(256, conv_precise_deep, ConvParams) {
    __shared__ double sums[32][8];
    const Lattice& l = p.l;
    const int part = threadIdx.x / 8, lane = threadIdx.x % 8;
    uint32 tile;
    const int point = p.tiles.split(blockIdx.x, tile);
    const int group = blockIdx.y, column = tile * 8 + lane;
    int z, y, x;
    latticePoint(l, point, z, y, x);
    const int z0 = z * l.inStep[0] + l.tapStart[0], y0 = y * l.inStep[1] + l.tapStart[1], x0 = x * l.inStep[2] + l.tapStart[2];
    double sum = 0;
    if (column < l.cout) {
#pragma unroll 4
        for (int k = part; k < 8 * p.steps; k += 32) sum += preciseTerm(p, z0, y0, x0, group, column, k);
    }
    sums[part][lane] = sum;
    __syncthreads();
    if (part > 0 || column >= l.cout) return;
    for (int i = 1; i < 32; i++) sum += sums[i][lane];
    preciseStore(l, z, y, x, group * l.cout + column, sum);
}
