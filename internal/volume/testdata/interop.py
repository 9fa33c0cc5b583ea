"""Checks with NumPy, SciPy, nibabel and tifffile what format/interop_test.go wrote: python interop.py FOLDER.

The volume is [2, 3, 37] (D, H, W) with values 0.25 n - 2.
"""
import os
import sys

import nibabel as nib
import numpy as np
import scipy.io
import tifffile

os.chdir(sys.argv[1])
want = (0.25 * np.arange(2 * 3 * 37) - 2).reshape(2, 3, 37).astype(np.float32)


def same(what, got, expected, exact=True):
    assert np.shape(got) == np.shape(expected), (what, np.shape(got), np.shape(expected))
    ok = np.array_equal(got, expected) if exact else np.allclose(got, expected, atol=1e-5)
    assert ok, (what, got, expected)


a = np.load("map.npy")
assert a.dtype == np.float32 and a.flags.c_contiguous
same("npy", a, want)
same("npy scalar", np.load("scalar.npy"), np.float32(1.5))
same("npy vector", np.load("vector.npy"), np.float32([1, 2, 3]))

m = scipy.io.loadmat("map.mat")
assert set(m) - {"__header__", "__version__", "__globals__"} == {
    "heatmap", "double", "i32", "shape", "method", "sample_id", "empty", "true_class", "score"}, m.keys()
assert m["heatmap"].dtype == np.float32 and m["double"].dtype == np.float64 and m["i32"].dtype == np.int32
assert m["shape"].dtype == np.int64 and m["true_class"].dtype == np.int64
same("mat heatmap", m["heatmap"], want)
same("mat double", m["double"], want.reshape(6, 37).astype(float))
same("mat i32", m["i32"], np.arange(24).reshape(2, 3, 4))
same("mat shape", m["shape"], [[2, 3, 37]])
same("mat class", m["true_class"], [[-1]])
same("mat score", m["score"], [[0.5]])
assert m["method"].item() == "gradcam++", m["method"]
assert m["sample_id"].item() == "Pat. é網\ufffd", m["sample_id"]
assert m["empty"].size == 0
assert [v[0] for v in scipy.io.whosmat("map.mat")][0] == "heatmap"

shear = np.array([[1, 0.3, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
oblique = np.array([[0.5 * np.cos(0.3), -2 * np.sin(0.3), 0, 1], [0.5 * np.sin(0.3), 2 * np.cos(0.3), 0, 2], [0, 0, -3, 3], [0, 0, 0, 1]])
for name, affine, qform in [("identity", np.eye(4), 2), ("oblique", oblique, 2), ("shear", shear, 0)]:
    image = nib.load(name + ".nii.gz")
    assert isinstance(image, nib.Nifti1Image) and image.get_data_dtype() == np.float32
    same(name, np.asarray(image.dataobj), want)
    same(name + " affine", image.affine, affine, exact=False)
    assert int(image.header["sform_code"]) == 2 and int(image.header["qform_code"]) == qform
    if qform:
        same(name + " qform", image.get_qform(), affine, exact=False)
    same(name + " zooms", image.header.get_zooms(), np.sqrt((affine[:3, :3] ** 2).sum(0)), exact=False)
    assert image.header.get_xyzt_units()[0] == "mm"

pages = (np.arange(3 * 5 * 7 * 3) * 7 % 256).astype(np.uint8).reshape(3, 5, 7, 3)
for name in ["classic.tiff", "big.tiff"]:
    same(name, tifffile.imread(name), pages)
    with tifffile.TiffFile(name) as f:
        assert f.is_imagej and f.is_bigtiff == (name == "big.tiff")
        assert len(f.pages) == 3 and f.series[0].axes == "ZYXS", f.series
        assert f.imagej_metadata["slices"] == 3 and f.imagej_metadata["spacing"] == 0.047 and f.imagej_metadata["unit"] == "mm"
        for i, page in enumerate(f.pages):
            assert page.compression == tifffile.COMPRESSION.LZW and page.photometric == tifffile.PHOTOMETRIC.RGB
            same(f"{name} page {i}", page.asarray(), pages[i])
            n, d = page.tags["XResolution"].value
            assert abs(d / n - 0.0117) < 1e-9, (n, d)
            n, d = page.tags["YResolution"].value
            assert abs(d / n - 0.25) < 1e-9, (n, d)
try:
    from PIL import Image, ImageSequence
    for name in ["classic.tiff"]:
        with Image.open(name) as f:
            for i, page in enumerate(ImageSequence.Iterator(f)):
                same(f"{name} page {i} by Pillow", np.asarray(page), pages[i])
except ImportError:
    print("Pillow is not here: its part was left out")
print("all files agree")
