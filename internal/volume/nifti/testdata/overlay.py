"""Checks with nibabel and ITK where the files lie that forms_test.go wrote: python overlay.py FOLDER forms.json."""
import json
import os
import sys

import nibabel as nib
import numpy as np
import SimpleITK as sitk

with open(sys.argv[2]) as f:
    expect = json.load(f)
for file, operations in expect.items():
    for operation, want in operations.items():
        path = os.path.join(sys.argv[1], operation + "." + file)
        image = sitk.ReadImage(path)
        itk = np.empty((3, 4))
        itk[:, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        itk[:, 3] = image.GetOrigin()
        itk[:2] *= -1
        for program, got in [("nibabel", nib.load(path).affine[:3]), ("itk", itk)]:
            scale = np.abs(want[program]).max()
            assert np.allclose(got, want[program], rtol=0, atol=1e-6 * scale), (path, program, got, want[program])
print("all grids lie where they should")
