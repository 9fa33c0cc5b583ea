package volume

import "strings"

// Readings lists other names for the axes of the array that v was read from, by which it would have the sizes want, [C, D, H, W], where 0
// is any size. If some keep the order of depth, height and width, only these are listed. Without v.Axes there are none.
func (v *Volume) Readings(want [4]int) []string {
	const letters = "NCDHW"
	size := map[byte]int{'N': 1, 'C': v.Channels, 'D': v.Depth, 'H': v.Height, 'W': v.Width}
	fits := func(letter byte, size int) bool {
		if letter == 'N' {
			return size == 1
		}
		n := want[strings.IndexByte(letters, letter)-1]
		return n == 0 || n == size
	}
	var all, ordered []string
	var extend func(names string)
	extend = func(names string) {
		if len(names) < len(v.Axes) {
			for _, letter := range []byte(letters) {
				if strings.IndexByte(names, letter) < 0 && fits(letter, size[v.Axes[len(names)]]) {
					extend(names + string(letter))
				}
			}
			return
		}
		for _, letter := range []byte(letters[1:]) {
			missing := strings.IndexByte(names, letter) < 0
			// An axis of one sample says the same as one of one channel or plane.
			if missing && (strings.IndexByte("HW", letter) >= 0 || !fits(letter, 1) || strings.Contains(names, "N")) {
				return
			}
		}
		if names == v.Axes {
			return
		}
		all = append(all, names)
		if sameOrder(names, v.Axes) {
			ordered = append(ordered, names)
		}
	}
	if v.Axes != "" {
		extend("")
	}
	if len(ordered) > 0 {
		return ordered
	}
	return all
}

// sameOrder reports whether the axes of space that a and b both name come in the same order.
func sameOrder(a, b string) bool {
	common := func(names, other string) string {
		return strings.Map(func(c rune) rune {
			if strings.ContainsRune("DHW", c) && strings.ContainsRune(other, c) {
				return c
			}
			return -1
		}, names)
	}
	return common(a, b) == common(b, a)
}
