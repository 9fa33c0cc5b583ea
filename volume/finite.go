package volume

import "fmt"

// NonFiniteError counts the voxels that are NaN or infinite.
type NonFiniteError struct {
	Count int
	Total int
	First [4]int // index [c, d, h, w] of the first one
	Value float32
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("%d of %d voxels are not finite, the first at [c d h w] = %v (%v); repair or mask them before explaining",
		e.Count, e.Total, e.First, e.Value)
}

// CheckFinite returns a *NonFiniteError if any voxel is NaN or infinite.
func (v *Volume) CheckFinite() error {
	count, first := 0, -1
	for i, x := range v.Data {
		if x-x != 0 { // true for NaN and both infinities only
			if count == 0 {
				first = i
			}
			count++
		}
	}
	if count == 0 {
		return nil
	}
	i := first
	at := [4]int{3: i % v.Width}
	i /= v.Width
	at[2], i = i%v.Height, i/v.Height
	at[1], at[0] = i%v.Depth, i/v.Depth
	return &NonFiniteError{Count: count, Total: len(v.Data), First: at, Value: v.Data[first]}
}
