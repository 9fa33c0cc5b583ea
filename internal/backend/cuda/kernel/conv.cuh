// Convolutions and their gradients with respect to the input, seen as one thing: a lattice. See lattice.go, which makes them.
#pragma once
#include "device.cuh"

// Lattice is a convolution, or one residue class of the output coordinates of a convolution's gradient. Arrays are along depth, height,
// width. Point j of the box of count points goes to output coordinate outStart + j*outStep. Tap t of an axis reads input coordinate
// tapStart + j*inStep + t*tapStep; what lies outside the input is zero. Taps may be 0 along an axis: then sums are empty.
struct Lattice {
    Planes in, out;
    Planes residual;      // of the shape of out, added before the activation; data is null where there is none
    const float* weights; // in the form that the kernel wants
    const float* bias;    // a value for each channel of out, or null
    int inSize[4], outSize[4]; // depth, height, width, channels of a voxel
    int cin, cout, groups;     // channels of one group; group g reads channels from g*cin on and writes those from g*cout on
    int activation;
    int count[3], outStart[3], outStep[3];
    int inStep[3], taps[3], tapStart[3], tapStep[3];
    int points;           // product of count
    int vectors;          // rows of out and of the residual can be accessed by 16 bytes
    Divide width, area;   // by count[2] and count[1]*count[2]
    Divide places;        // by in.places
};

enum Activation { NONE, RELU, SILU };

__device__ __forceinline__ float activate(int activation, float v) {
    if (activation == RELU) return v > 0 || v != v ? v : 0.0f;
    if (activation == SILU) return v / (1.0f + expf(-v));
    return v;
}

// latticePoint splits the number of a point into its coordinates.
__device__ __forceinline__ void latticePoint(const Lattice& l, int point, int& z, int& y, int& x) {
    uint32 inPlane, inRow;
    z = l.area.split(point, inPlane);
    y = l.width.split(inPlane, inRow);
    x = inRow;
}

// latticeRow is channel 0 of the output voxel (or that of the residual) of point (z, y, x).
__device__ __forceinline__ char* latticeRow(const Lattice& l, const Planes& v, int z, int y, int x) {
    z = l.outStart[0] + z * l.outStep[0];
    y = l.outStart[1] + y * l.outStep[1];
    x = l.outStart[2] + x * l.outStep[2];
    return v.data + (int64)(z % v.places) * v.stride + (int64)(y * l.outSize[2] + x) * l.outSize[3] * 4;
}

// latticeSource is channel 0 of the input voxel (z, y, x), or null where that lies outside.
__device__ __forceinline__ const float* latticeSource(const Lattice& l, int z, int y, int x) {
    if ((unsigned)z >= (unsigned)l.inSize[0] || (unsigned)y >= (unsigned)l.inSize[1] || (unsigned)x >= (unsigned)l.inSize[2]) return nullptr;
    uint32 place;
    l.places.split(z, place);
    return reinterpret_cast<const float*>(l.in.data + (int64)place * l.in.stride) + (int64)(y * l.inSize[2] + x) * l.inSize[3];
}

// ConvParams are those of the kernels that take weights as [groups][8*steps][columns], with the channels of a tap filled up to a multiple
// of 4, and the columns too.
struct ConvParams {
    Lattice l;
    float* partial; // [splits][points][groups*cout] if the depth of the product is split, otherwise null
    int splits, splitSteps, steps; // steps of 8 along the depth, in all and in a split
    int columns;
    Divide depth;             // by the input channels of a tap, filled up
    Divide tiles;             // by the tiles along the columns
    Divide total;             // by groups*cout
    Divide tapArea, tapWidth; // by the taps of a plane, of a row
    int taps;                 // in all
};
