package kernel

// gemmGo4 is the matrix kernel for panels of 4 columns: two rows at a time, the eight sums in locals.
func gemmGo4(c, a, b, bias, zero []float32, rows, crow []int32, p gemmParams) {
	var bs [4]float32
	copy(bs[:p.cols], bias)
	for i := 0; i < p.m; i += 2 {
		s0, s1, s2, s3 := bs[0], bs[1], bs[2], bs[3]
		t0, t1, t2, t3 := s0, s1, s2, s3
		w := b
		for t := range p.taps {
			x, y := zero[:p.kc], zero[:p.kc]
			if r := rows[t*p.tapStep+i]; r >= 0 {
				x = a[int(r)*p.aStride:][:p.kc]
			}
			if i+1 < p.m {
				if r := rows[t*p.tapStep+i+1]; r >= 0 {
					y = a[int(r)*p.aStride:][:p.kc]
				}
			}
			for k, u := range x {
				v := y[k]
				q := w[:4]
				s0 += u * q[0]
				s1 += u * q[1]
				s2 += u * q[2]
				s3 += u * q[3]
				t0 += v * q[0]
				t1 += v * q[1]
				t2 += v * q[2]
				t3 += v * q[3]
				w = w[4:]
			}
		}
		store4(c[int(crow[i])*p.cStride:][:p.cols], s0, s1, s2, s3, p.acc)
		if i+1 < p.m {
			store4(c[int(crow[i+1])*p.cStride:][:p.cols], t0, t1, t2, t3, p.acc)
		}
	}
}

func store4(c []float32, s0, s1, s2, s3 float32, acc int) {
	s := [4]float32{s0, s1, s2, s3}
	for j := range c {
		if acc != 0 {
			s[j] += c[j]
		}
		c[j] = s[j]
	}
}
