package phantom

// Dilate returns the voxels that lie within radius voxels (Euclidean, between voxel centres) of a marked one. The mask is
// row-major [D, H, W] and is left alone.
func Dilate(mask []uint8, dims [3]int, radius float64) []uint8 {
	out := make([]uint8, len(mask))
	ball := ballOffsets(radius)
	i := 0
	for d := range dims[0] {
		for h := range dims[1] {
			for w := range dims[2] {
				if mask[i] != 0 {
					stamp(out, dims, [3]int{d, h, w}, ball)
				}
				i++
			}
		}
	}
	return out
}

func ballOffsets(radius float64) [][3]int {
	var ball [][3]int
	r := int(radius)
	for d := -r; d <= r; d++ {
		for h := -r; h <= r; h++ {
			for w := -r; w <= r; w++ {
				if float64(d*d+h*h+w*w) <= radius*radius {
					ball = append(ball, [3]int{d, h, w})
				}
			}
		}
	}
	return ball
}

func stamp(out []uint8, dims, centre [3]int, ball [][3]int) {
	for _, o := range ball {
		d, h, w := centre[0]+o[0], centre[1]+o[1], centre[2]+o[2]
		if d >= 0 && d < dims[0] && h >= 0 && h < dims[1] && w >= 0 && w < dims[2] {
			out[(d*dims[1]+h)*dims[2]+w] = 1
		}
	}
}

// Peak is the voxel (d, h, w) of the largest value of a heatmap, the first of equals.
func Peak(heatmap []float32, dims [3]int) [3]int {
	best := 0
	for i, x := range heatmap {
		if x > heatmap[best] {
			best = i
		}
	}
	return [3]int{best / (dims[1] * dims[2]), best / dims[2] % dims[1], best % dims[2]}
}

// Marked reports whether a voxel of a mask [D, H, W] is marked.
func Marked(mask []uint8, dims, voxel [3]int) bool {
	return mask[(voxel[0]*dims[1]+voxel[1])*dims[2]+voxel[2]] != 0
}

// PointedAt reports whether the maximum of a heatmap [D, H, W] lies within radius voxels of the lesion.
func (p *Phantom) PointedAt(heatmap []float32, radius float64) bool {
	return Marked(Dilate(p.Mask, p.Dims, radius), p.Dims, Peak(heatmap, p.Dims))
}
