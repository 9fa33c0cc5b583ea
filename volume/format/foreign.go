package format

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/voxcam/voxcam/internal/volume/nifti"
)

// foreign lists kinds of files that are not read, by their first bytes, each with a way to turn it into a volume that is.
var foreign = []struct {
	name   string
	match  func(head []byte) bool
	advice string
}{
	{"FreeSurfer volume (.mgh, .mgz)", isMGH, "convert it: mri_convert volume.mgz volume.nii.gz"},
	{"DICOM file", func(head []byte) bool { return len(head) >= 132 && string(head[128:132]) == "DICM" },
		"convert its series: dcm2niix -z y FOLDER"},
	{"NRRD file", func(head []byte) bool { return bytes.HasPrefix(head, []byte("NRRD0")) }, viaSimpleITK},
	{"MetaImage file", func(head []byte) bool { return bytes.HasPrefix(head, []byte("ObjectType = ")) }, viaSimpleITK},
	{"TIFF file", func(head []byte) bool {
		return bytes.HasPrefix(head, []byte("II*\x00")) || bytes.HasPrefix(head, []byte("MM\x00*"))
	}, "convert it: numpy.save('volume.npy', tifffile.imread('volume.tif')) in Python"},
	{"file of torch.save", isTorch, "if it holds a tensor, convert it: numpy.save('volume.npy', torch.load('volume.pt').numpy()) in Python"},
	{"Python pickle", func(head []byte) bool { return len(head) > 1 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5 },
		"save the array with numpy.save"},
}

const viaSimpleITK = "convert it: SimpleITK.WriteImage(SimpleITK.ReadImage('volume'), 'volume.nii.gz') in Python"

// isMGH looks at the header of https://surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat: version 1, four sizes, and the type.
func isMGH(head []byte) bool {
	if len(head) < 24 || binary.BigEndian.Uint32(head) != 1 {
		return false
	}
	for at := 4; at < 20; at += 4 {
		if n := binary.BigEndian.Uint32(head[at:]); n == 0 || n > 1<<20 {
			return false
		}
	}
	return binary.BigEndian.Uint32(head[20:]) <= 10
}

// isTorch recognises the archive that torch.save writes, whose first entry is a pickle, and the pickle that it once wrote.
func isTorch(head []byte) bool {
	const legacy = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
	return bytes.HasPrefix(head, []byte("PK\x03\x04")) && bytes.Contains(head, []byte("/data.pkl")) || bytes.HasPrefix(head, []byte(legacy))
}

// inflate returns the first bytes inside a gzip stream; fewer than headBytes if it is short or damaged.
func inflate(r *io.SectionReader) []byte {
	z, err := gzip.NewReader(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil
	}
	defer z.Close()
	head := make([]byte, headBytes)
	n, _ := io.ReadFull(z, head) //nolint:errcheck // what there is; the reader of the format finds damage
	return head[:n]
}

// checkKind refuses a file whose first bytes are those of a kind that is not read, itself or inside gzip. named says that its
// extension is NIfTI's: then unknown content of gzip is left to the NIfTI reader, whose errors say more.
func checkKind(r *io.SectionReader, head []byte, named bool) error {
	packed := nifti.MatchGzip(head)
	if packed {
		head = inflate(r)
	}
	for _, kind := range foreign {
		if kind.match(head) {
			return fmt.Errorf("is a %s, which is not read; %s", kind.name, kind.advice)
		}
	}
	if !packed || nifti.Match(head) {
		return nil
	}
	for _, f := range table {
		if f.match != nil && f.match(head) {
			return fmt.Errorf("is a %s file compressed by gzip, which only NIfTI files may be; decompress it: gunzip < FILE > volume%s",
				f.Name, f.Extensions[0])
		}
	}
	if !named {
		return fmt.Errorf("is compressed by gzip and holds no NIfTI image; decompress it, and give the file inside if it is a volume")
	}
	return nil
}
