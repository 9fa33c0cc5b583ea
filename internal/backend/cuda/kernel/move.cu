// Moves: what leaves values as they are and puts them somewhere else.
#include "device.cuh"

// unroll is the number of elements, or vectors of four, that a thread moves; all are found and loaded before the first is stored, so
// that the loads need not wait for one another. Behind the end the last one is loaded again.
constexpr int unroll = 4;

struct CopyParams {
    Planes x, y;
    int64 n; // elements or vectors of a plane
    int z0, pad;
};

// Reshape where the plan has the output elsewhere.
template <class T> __device__ __forceinline__ void copy(const CopyParams& p) {
    int z = p.z0 + blockIdx.y;
    const T* x = plane<T>(p.x, z);
    T* y = plane<T>(p.y, z);
    int64 i0 = (int64)blockIdx.x * (256 * unroll) + threadIdx.x;
    T v[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++)
        if (i0 + u * 256 < p.n) v[u] = x[i0 + u * 256];
#pragma unroll
    for (int u = 0; u < unroll; u++)
        if (i0 + u * 256 < p.n) y[i0 + u * 256] = v[u];
}

KERNEL(256, move_copy_1, CopyParams) { copy<float>(p); }
KERNEL(256, move_copy_4, CopyParams) { copy<float4>(p); }

constexpr int maxSources = 32;

struct ConcatParams {
    Planes y;
    Planes x[maxSources];
    int start[maxSources]; // column of the output where each source begins, counted from the first one
    int width[maxSources];
    int sources, rowWidth; // columns of a row of the output, those of other launches included
    int first;             // column of the output that start counts from
    Divide columns;        // of all sources
    int n, z0;             // elements or vectors of a plane
    int pad;
};

// Concat joins rows: row i of the output is row i of each source in turn.
template <class T> __device__ __forceinline__ void concat(const ConcatParams& p) {
    int z = p.z0 + blockIdx.y, i0 = blockIdx.x * (256 * unroll) + threadIdx.x;
    T* y = plane<T>(p.y, z) + p.first;
    const T* from[unroll];
    uint32 to[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        uint32 column, row = p.columns.split(min(i0 + u * 256, p.n - 1), column);
        int s = 0;
#pragma unroll
        for (int step = maxSources / 2; step > 0; step /= 2)
            if (s + step < p.sources && p.start[s + step] <= (int)column) s += step;
        from[u] = plane<T>(p.x[s], z) + (row * p.width[s] + column - p.start[s]);
        to[u] = row * p.rowWidth + column;
    }
    T v[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) v[u] = *from[u];
#pragma unroll
    for (int u = 0; u < unroll; u++)
        if (i0 + u * 256 < p.n) y[to[u]] = v[u];
}

KERNEL(256, move_concat_1, ConcatParams) { concat<float>(p); }
KERNEL(256, move_concat_4, ConcatParams) { concat<float4>(p); }

constexpr int maxAxes = 8;

struct TransposeParams {
    Planes x, y;
    int64 stepX[maxAxes], stepY[maxAxes]; // elements (vectors, of rows) from one position along an axis to the next
    int64 wideX, highY;    // squares: steps in x along the output's innermost axis, in y along the input's; the others are 1
    Divide dims[maxAxes];  // of the other axes, outermost first
    Divide inner;          // rows: elements or vectors of a row
    Divide tilesW, tilesH; // squares: along the output's innermost axis, and along the input's
    int width, height;     // sizes of these axes
    int n;                 // rows: elements or vectors of a plane
    int axes, z0;
    int pad;
};

// Rows move as a whole: the innermost axis stays.
template <class T> __device__ __forceinline__ void transposeRows(const TransposeParams& p) {
    int z = p.z0 + blockIdx.y, i0 = blockIdx.x * (256 * unroll) + threadIdx.x;
    const T* x = plane<T>(p.x, z);
    T* y = plane<T>(p.y, z);
    int64 from[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        uint32 k, at, row = p.inner.split(min(i0 + u * 256, p.n - 1), k);
        from[u] = k;
        for (int a = p.axes - 1; a >= 0; a--) {
            row = p.dims[a].split(row, at);
            from[u] += at * p.stepX[a];
        }
    }
    T v[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) v[u] = x[from[u]];
#pragma unroll
    for (int u = 0; u < unroll; u++)
        if (i0 + u * 256 < p.n) y[i0 + u * 256] = v[u];
}

KERNEL(256, move_rows_1, TransposeParams) { transposeRows<float>(p); }
KERNEL(256, move_rows_4, TransposeParams) { transposeRows<float4>(p); }

constexpr int side = 32;

// Squares over the innermost axes of input and output are read and written in runs by way of shared memory.
KERNEL(256, move_squares, TransposeParams) {
    __shared__ float tile[side][side + 1];
    int z = p.z0 + blockIdx.y, column = threadIdx.x % side, row = threadIdx.x / side;
    uint32 w, h, at, rest = p.tilesW.split(blockIdx.x, w);
    rest = p.tilesH.split(rest, h);
    const float* x = plane<float>(p.x, z);
    float* y = plane<float>(p.y, z);
    for (int a = p.axes - 1; a >= 0; a--) {
        rest = p.dims[a].split(rest, at);
        x += at * p.stepX[a];
        y += at * p.stepY[a];
    }
    int w0 = w * side, h0 = h * side;
    x += h0 + column, y += w0 + column;
    if (h0 + column < p.height)
#pragma unroll
        for (int k = row; k < side; k += 256 / side)
            if (w0 + k < p.width) tile[k][column] = x[(w0 + k) * p.wideX];
    __syncthreads();
    if (w0 + column < p.width)
#pragma unroll
        for (int k = row; k < side; k += 256 / side)
            if (h0 + k < p.height) y[(h0 + k) * p.highY] = tile[column][k];
}

struct SelectParams {
    Planes x, y;
    const int* planes;             // for each plane of y the one of x that it is taken from; negative for none
    const int *high, *wide, *deep; // offsets in x of positions along the axes of a plane, in elements or vectors; negative for none
    Divide inner, dimDeep, dimWide; // elements or vectors that move as one, sizes of the two innermost axes
    int n, z0;                      // elements or vectors of a plane
    float fill;
};

__device__ __forceinline__ void set(float& v, float x) { v = x; }
__device__ __forceinline__ void set(float4& v, float x) { v = make_float4(x, x, x, x); }

// What takes each element from one position of the input, or fills it: the position is a sum over the axes.
template <class T> __device__ __forceinline__ void select(const SelectParams& p) {
    int z = p.z0 + blockIdx.y, i0 = blockIdx.x * (256 * unroll) + threadIdx.x;
    int from = p.planes[z];
    const T* x = plane<T>(p.x, from < 0 ? 0 : from);
    T* y = plane<T>(p.y, z);
    int at[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        uint32 k, d, w, h = p.inner.split(min(i0 + u * 256, p.n - 1), k);
        h = p.dimDeep.split(h, d);
        h = p.dimWide.split(h, w);
        int atD = p.deep[d], atW = p.wide[w], atH = p.high[h];
        at[u] = (from | atD | atW | atH) < 0 ? -1 : atH + atW + atD + (int)k;
    }
    T v[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        set(v[u], p.fill);
        if (at[u] >= 0) v[u] = x[at[u]];
    }
#pragma unroll
    for (int u = 0; u < unroll; u++)
        if (i0 + u * 256 < p.n) y[i0 + u * 256] = v[u];
}

KERNEL(256, move_select_1, SelectParams) { select<float>(p); }
KERNEL(256, move_select_4, SelectParams) { select<float4>(p); }
