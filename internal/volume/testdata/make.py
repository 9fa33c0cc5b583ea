"""Makes the fixtures of the volume formats with NumPy, SciPy and nibabel, and expect.json with what those libraries read.

    python make.py        (numpy 2, scipy 1, nibabel 5; writes into its own folder)

expect.json: file -> a list of {variable, shape, data (row-major), affine (where the format has one)}. A file without an entry is one
that must be refused. What no library writes any more (big-endian MAT-files, numbers in small types, level 4 on other
machines, the pairs of NIfTI) is put together here byte by byte.
"""
import io
import json
import os
import struct
import zipfile
import zlib

import nibabel as nib
import numpy as np
import scipy.io

os.chdir(os.path.dirname(os.path.abspath(__file__)))
expect = {}


def note(path, a, variable=None, affine=None):
    a = np.asarray(a)
    entry = {"shape": list(a.shape), "data": [float(x) for x in a.astype(np.float32).ravel()]}
    if variable:
        entry["variable"] = variable
    if affine is not None:
        entry["affine"] = np.asarray(affine, float)[:3].tolist()
    expect.setdefault(path, []).append(entry)


def ramp(shape, dtype):
    """Every element different; negative ones and fractions where the type has them."""
    dtype = np.dtype(dtype)
    a = np.arange(np.prod(shape)).reshape(shape)
    if dtype.kind == "b":
        return a % 3 == 0
    if dtype.kind == "i":
        a = a - 7
    if dtype.kind == "f":
        a = a / 4 - 2
    return a.astype(dtype)


# ---- NumPy
TYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]
arrays = {}
for t in TYPES:
    for order in "<>":
        for layout in "CF":
            dt = np.dtype(order + t)
            arrays[f"{t}_{'le' if order == '<' else 'be'}_{layout}"] = np.array(ramp((2, 3, 4), t), dtype=dt, order=layout)
np.savez_compressed("types.npz", **arrays)
for name, a in np.load("types.npz").items():
    note("types.npz", a, variable=name)
np.savez("one.npz", volume=ramp((2, 3, 4), "f4"))
note("one.npz", ramp((2, 3, 4), "f4"))
np.savez("two.npz", image=ramp((2, 3, 4), "i2"), mask=ramp((2, 3, 4), "b1"))
note("two.npz", ramp((2, 3, 4), "i2"), variable="image")
for name, shape, version in [("v1.npy", (2, 3, 4), (1, 0)), ("v2.npy", (2, 2, 3, 4), (2, 0)), ("v3.npy", (1, 2, 2, 3, 4), (3, 0)),
                             ("flat.npy", (3, 4), (1, 0))]:
    with open(name, "wb") as f:
        np.lib.format.write_array(f, ramp(shape, "f4"), version=version)
    note(name, np.load(name))
np.save("fortran.npy", np.asfortranarray(ramp((2, 3, 4), ">f8")))
note("fortran.npy", np.load("fortran.npy"))
np.save("object.npy", np.array([{1}, None], dtype=object))
np.save("complex.npy", ramp((2, 3, 4), "c8"))
np.save("record.npy", np.zeros((2, 3, 4), dtype=[("a", "f4"), ("b", "i2")]))
np.save("nan.npy", np.where(ramp((2, 3, 4), "f4") == 1.25, np.nan, ramp((2, 3, 4), "f4")).astype("f4"))
np.save("noise.npy", ramp((5, 1, 2, 3, 4), "f8"))
note("noise.npy", np.load("noise.npy"))

# ---- MATLAB level 5, by SciPy
classes = {f"v_{t}": ramp((2, 3, 4), t) for t in ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"]}
classes["tiny"] = ramp((1, 3, 1), "u1")  # a small data element
classes["imgMat"] = ramp((2, 3, 4), "f4")
for path, compress in [("v5.mat", False), ("v7.mat", True)]:
    scipy.io.savemat(path, classes, do_compression=compress)
    for name, a in classes.items():
        note(path, scipy.io.loadmat(path)[name], variable=name)
scipy.io.savemat("other.mat", {"text": "hello", "cell": np.array([1, "a"], dtype=object), "z": ramp((2, 3, 4), "c16"),
                               "s": {"a": 1}, "sparse": scipy.sparse.eye(3), "scan": ramp((2, 3, 4), "u1")}, do_compression=True)
note("other.mat", ramp((2, 3, 4), "u1"), variable="scan")

# ---- MATLAB level 5, by hand: big-endian, doubles stored as bytes, logical
MI = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}


def element(order, kind, content):
    return struct.pack(order + "II", kind, len(content)) + content + b"\0" * (-len(content) % 8)


def matrix(order, name, klass, a, stored, flags=0):
    body = element(order, 6, struct.pack(order + "II", klass | flags, 0))
    body += element(order, 5, struct.pack(f"{order}{a.ndim}i", *a.shape))
    body += element(order, 1, name.encode())
    body += element(order, MI[stored], a.astype(order + stored).tobytes("F"))
    return element(order, 14, body)


def header5(order, text=b"MATLAB 5.0 MAT-file", version=0x0100):
    return text.ljust(124) + struct.pack(order + "H", version) + (b"IM" if order == "<" else b"MI")


big = ramp((2, 3, 4), "f8")
small = np.arange(24.0).reshape(2, 3, 4)
with open("big.mat", "wb") as f:
    f.write(header5(">"))
    f.write(matrix(">", "stored", 6, small, "u1"))
    packed = zlib.compress(matrix(">", "logical", 9, np.arange(24).reshape(2, 3, 4) % 3, "u1", 0x0200))
    f.write(struct.pack(">II", 15, len(packed)) + packed)
    f.write(matrix(">", "imgMat", 6, big, "f8"))
loaded = scipy.io.loadmat("big.mat")
assert (loaded["imgMat"] == big).all() and (loaded["stored"] == small).all()
for name in ["stored", "logical", "imgMat"]:  # the last one is the last in the file
    note("big.mat", loaded[name] != 0 if name == "logical" else loaded[name], variable=name)
with open("v73.mat", "wb") as f:
    f.write(header5("<", b"MATLAB 7.3 MAT-file, Platform: GLNXA64", 0x0200).ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n" + b"\0" * 64)

# ---- MATLAB level 4: matrices only
flat = {"text": "hello", "imgMat": ramp((3, 4), "f8")}
scipy.io.savemat("v4.mat", flat, format="4")
note("v4.mat", scipy.io.loadmat("v4.mat")["imgMat"], variable="imgMat")
with open("v4big.mat", "wb") as f:
    for digit, t in enumerate(["f8", "f4", "i4", "i2", "u2", "u1"]):
        a, name = ramp((3, 4), t), b"v_" + t.encode() + b"\0"
        f.write(struct.pack(">5i", 1000 + 10 * digit, 3, 4, 0, len(name)) + name + a.astype(">" + t).tobytes("F"))
for digit, t in enumerate(["f8", "f4", "i4", "i2", "u2", "u1"]):
    note("v4big.mat", scipy.io.loadmat("v4big.mat")["v_" + t], variable="v_" + t)

# ---- NIfTI
turn = np.array([[-1.5, 0.2, 0, 10], [0.3, 0, 2.5, -20.5], [0, -0.75, 0.1, 30.25], [0, 0, 0, 1]])  # with shear
c, s = np.cos(0.4), np.sin(0.4)
rigid = np.array([[c, -s, 0, 1], [s, c, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]) @ np.diag([0.5, 2, -3, 1])


def save(path, image):
    nib.save(image, path)
    again = nib.load(path)
    note(path, again.get_fdata(), affine=again.affine)


for t in ["u1", "i2", "i4", "f4", "f8", "i1", "u2", "u4", "i8", "u8"]:
    image = nib.Nifti1Image(ramp((2, 3, 4), t), turn, dtype=t)
    image.header.set_data_dtype(t)
    image.header.set_slope_inter(1, 0)
    save(f"{t}.nii", image)
header = nib.Nifti1Header(endianness=">")
header.set_data_dtype(">i2")
image = nib.Nifti1Image(ramp((2, 3, 4), "i2"), turn, header)
save("big.nii", image)
image = nib.Nifti1Image(ramp((2, 3, 4), "f8"), rigid)
image.header.set_data_dtype("i2")
image.header.set_slope_inter(0.25, -2)
save("scaled.nii.gz", image)
image = nib.Nifti1Image(ramp((2, 3, 4), "f4"), None)
image.header.set_qform(rigid, 1)
image.header.set_sform(None, 0)
save("qform.nii", image)
image.header.set_sform(turn, 2)
save("both.nii", image)
image = nib.Nifti1Image(ramp((2, 3, 4), "f4"), None)
image.header.set_zooms((0.5, 2, 3))
save("sizes.nii", image)
save("channels.nii.gz", nib.Nifti1Image(ramp((2, 3, 4, 2), "f4"), rigid))
save("vector.nii.gz", nib.Nifti1Image(ramp((2, 3, 4, 1, 2), "f4"), rigid))
save("two.nii", nib.Nifti2Image(ramp((2, 3, 4), "f4"), turn))
header = nib.Nifti2Header(endianness=">")
header.set_data_dtype(">f8")
save("twobig.nii.gz", nib.Nifti2Image(ramp((2, 3, 4), "f8"), rigid, header))
image = nib.Nifti1Image(ramp((2, 3, 4), "u1"), rigid)
image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"an extension"))
save("extension.nii", image)
nib.save(nib.Nifti1Image(ramp((2, 3, 4), "c8"), rigid), "complex.nii")
nib.save(nib.Nifti1Pair(ramp((2, 3, 4), "u1"), rigid), "pair.img")
os.replace("pair.hdr", "pair_header.nii")  # a header alone under the name of a whole image
os.remove("pair.img")
nib.save(nib.AnalyzeImage(ramp((2, 3, 4), "u1"), np.eye(4)), "analyze.img")
os.replace("analyze.hdr", "analyze_header.nii")
os.remove("analyze.img")

# Time stamps in .npz, .gz and .mat headers would make each run differ.
for path in sorted(os.listdir(".")):
    data = open(path, "rb").read()
    if path.endswith(".gz"):
        data = data[:4] + b"\0\0\0\0" + data[8:]
    elif path.endswith(".mat") and data.startswith(b"MATLAB 5.0 MAT-file Platform"):
        data = b"MATLAB 5.0 MAT-file".ljust(116) + data[116:]
    elif path.endswith(".npz"):
        out = io.BytesIO()
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
            for item in old.infolist():
                plain = zipfile.ZipInfo(item.filename)
                plain.compress_type = item.compress_type
                new.writestr(plain, old.read(item))
        data = out.getvalue()
    else:
        continue
    open(path, "wb").write(data)

with open("expect.json", "w") as f:
    f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(expect.items())) + "\n}\n")
print(sum(os.path.getsize(p) for p in os.listdir(".")), "bytes")
