"""Makes volumes whose headers place them in different ways, and forms.json: where nibabel and ITK put the grids made of them.

    python forms.py        (numpy 2, nibabel 5, SimpleITK 2.5; writes into its own folder)

forms.json: file -> operation -> {nibabel, itk}, each the first three rows of the affine of the result in RAS+ (nibabel: in
the header's unit, which it ignores; ITK: in millimetres). The operations are done by those libraries on the volume that they read:
crops, pads and transpositions by both, means over cells by ITK's BinShrink; nibabel has nothing like it, so that its row for
cells is the affine times the matrix of the cells.
"""
import gzip
import json
import os
import struct

import nibabel as nib
import numpy as np
import SimpleITK as sitk

os.chdir(os.path.dirname(os.path.abspath(__file__)))
SHAPE = (8, 9, 10)
CROP, CROPPED = (1, 2, 1), (6, 5, 8)
PAD, PADDED = (2, 1, 0), (12, 11, 10)
CELL, CROPPED_CELL = (2, 3, 5), (2, 1, 4)
AXES = (2, 0, 1)  # axes = "HWD": stored axis 2 is D, 0 is H, 1 is W


def rotation(x, y, z):
    def turn(a, i, j):
        m = np.eye(3)
        m[i, i] = m[j, j] = np.cos(a)
        m[i, j], m[j, i] = -np.sin(a), np.sin(a)
        return m
    return turn(x, 1, 2) @ turn(y, 2, 0) @ turn(z, 0, 1)


def affine(turn, size, shift):
    m = np.eye(4)
    m[:3, :3], m[:3, 3] = turn @ np.diag(size), shift
    return m


plain = affine(np.diag([-1, 1, 1]), (1, 2, 3), (9, 8, 7))
turned = affine(np.diag([-1, 1, 1]) @ rotation(0, 0, -0.3), (1, 2, 3), (21, -4, 7))
oblique = affine(rotation(0.4, -0.2, 1.1), (0.5, 0.5, 2.5), (-40, 33, 12.5))
flipped = affine(rotation(0.1, 0.2, 0.3) @ np.diag([1, 1, -1]), (1, 2, 3), (5, 6, 7))
sheared = plain.copy()
sheared[0, 1] += 0.5

files = {  # sform, its code, qform, its code, unit
    "same": (turned, 1, plain, 1, 2),
    "aligned": (turned, 2, plain, 1, 2),
    "mni": (turned, 4, plain, 1, 2),
    "none": (turned, 0, plain, 0, 2),
    "micrometres": (turned, 1, plain, 1, 3),
    "metres": (turned, 2, oblique, 1, 1),
    "no_unit": (turned, 2, flipped, 2, 0),
    "oblique": (oblique, 0, oblique, 1, 2),
    "flipped": (flipped, 3, flipped, 3, 2),
    "sform_only": (oblique, 2, oblique, 0, 2),
    "sheared": (sheared, 2, plain, 1, 2),
}


def itk(image):
    m = np.eye(4)
    m[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    m[:3, 3] = image.GetOrigin()
    m[:2] *= -1  # LPS to RAS
    return m


def reorder(image):
    perm = list(AXES)
    ornt = [[perm.index(i), 1] for i in range(3)]
    return image.as_reoriented(np.array(ornt)).affine


def cells(m, cell):
    to = np.diag([*cell, 1.0])
    to[:3, 3] = (np.array(cell) - 1) / 2
    return m @ to


def digits(m):
    return [[float(f"{x:.8g}") + 0.0 for x in row] for row in m[:3]]


expect = {}
for name, (sform, scode, qform, qcode, unit) in files.items():
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype("uint8")
    header.set_sform(sform, scode)
    header.set_qform(qform, qcode)
    b = bytearray(header.binaryblock)
    b[344:348] = b"n+1\0"
    struct.pack_into("<f", b, 108, 352)
    b[123] = unit
    path = f"forms_{name}.nii.gz"
    with open(path, "wb") as f:
        f.write(gzip.compress(bytes(b) + bytes(4 + np.prod(SHAPE)), mtime=0))
    n, i = nib.load(path), sitk.ReadImage(path)
    crop = n.slicer[tuple(slice(o, o + s) for o, s in zip(CROP, CROPPED))].affine
    cropped = sitk.RegionOfInterest(i, CROPPED, CROP)
    above = [p - s - o for p, s, o in zip(PADDED, SHAPE, PAD)]
    pad = nib.affines.from_matvec(n.affine[:3, :3], nib.affines.apply_affine(n.affine, [-o for o in PAD]))
    rows = {
        "none": (n.affine, itk(i)),
        "crop": (crop, itk(cropped)),
        "pad": (pad, itk(sitk.ConstantPad(i, PAD, above))),
        "cells": (cells(n.affine, CELL), itk(sitk.BinShrink(i, CELL))),
        "crop and cells": (cells(crop, CROPPED_CELL), itk(sitk.BinShrink(cropped, CROPPED_CELL))),
        "axes": (reorder(n), itk(sitk.PermuteAxes(i, AXES))),
    }
    expect[path] = {k: {"nibabel": digits(a), "itk": digits(b)} for k, (a, b) in rows.items()}
with open("forms.json", "w") as f:
    lines = (f"{json.dumps(k)}: {{\n" + ",\n".join(f"  {json.dumps(o)}: {json.dumps(v)}" for o, v in rows.items()) + "}"
             for k, rows in expect.items())
    f.write("{" + ",\n".join(lines) + "}\n")
