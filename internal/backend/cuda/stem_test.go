package cuda

import (
	"fmt"
	"testing"

	"github.com/voxcam/voxcam/internal/tensor"
)

func TestStem(t *testing.T) {
	b := openFloat32(t)
	for i, e := range []convExample{
		{x: tensor.Shape{1, 6, 9, 10, 1}, out: 6, kernel: cube(3), stride: cube(1), before: cube(1), after: cube(1)},
		{x: tensor.Shape{1, 6, 9, 72, 1}, out: 32, kernel: cube(3), stride: cube(2), after: cube(1), bias: true},
		{x: tensor.Shape{1, 7, 21, 9, 1}, out: 36, kernel: cube(3), stride: cube(2), before: [3]int{1, 0, 2}, after: [3]int{0, 1, 1}},
		{x: tensor.Shape{1, 4, 37, 11, 1}, out: 40, kernel: cube(3), stride: [3]int{1, 2, 2}, before: cube(1), after: cube(1), bias: true},
		{x: tensor.Shape{1, 5, 12, 15, 1}, out: 64, kernel: cube(7), stride: cube(2), before: cube(3), after: cube(3)},
		{x: tensor.Shape{1, 9, 11, 14, 1}, out: 20, kernel: cube(7), stride: cube(2), before: [3]int{2, 4, 1}, after: cube(3)},
		{x: tensor.Shape{1, 5, 9, 76, 1}, out: 12, kernel: [3]int{3, 7, 7}, stride: [3]int{1, 2, 2}, before: [3]int{1, 3, 3}, after: [3]int{1, 3, 3}},
		{x: tensor.Shape{1, 3, 7, 70, 3}, out: 64, kernel: [3]int{3, 7, 7}, stride: [3]int{1, 2, 2}, before: [3]int{1, 3, 3}, after: [3]int{1, 3, 3}, bias: true},
		{x: tensor.Shape{1, 4, 10, 13, 3}, out: 24, kernel: cube(7), stride: cube(2), before: cube(3), after: cube(3)},
		{x: tensor.Shape{2, 5, 7, 9, 3}, out: 33, kernel: cube(3), stride: cube(1), before: cube(1), after: cube(1), bias: true},
		{x: tensor.Shape{1, 5, 8, 9, 3}, out: 17, kernel: cube(3), stride: [3]int{1, 2, 2}, before: [3]int{0, 1, -1}, after: [3]int{2, 0, 3}},
		{x: tensor.Shape{1, 7, 8, 35, 3}, out: 16, kernel: cube(3), stride: cube(2), before: cube(1), after: cube(1), bias: true},
		{x: tensor.Shape{1, 5, 6, 7, 2}, out: 9, kernel: cube(3), stride: cube(1), before: cube(1), after: cube(1)},
		{x: tensor.Shape{1, 5, 6, 7, 4}, out: 64, kernel: [3]int{2, 3, 5}, stride: [3]int{1, 3, 2}, dilation: [3]int{2, 1, 1}, before: cube(2), after: cube(2)},
		{x: tensor.Shape{1, 5, 8, 12, 1}, out: 16, kernel: cube(3), stride: cube(1), dilation: cube(2), before: cube(2), after: cube(2)},
		{x: tensor.Shape{1, 8, 8, 8, 1}, out: 48, kernel: cube(4), stride: cube(4), bias: true},
		{x: tensor.Shape{1, 3, 1, 1, 1}, out: 3, kernel: [3]int{3, 1, 1}, stride: cube(1), before: [3]int{1, 0, 0}, after: [3]int{1, 0, 0}},
	} {
		e.groups = 1
		e.adds = i%2 == 1
		e.activation = []string{"", "Silu", "Relu"}[i%3]
		t.Run(fmt.Sprint(i), func(t *testing.T) { checkExample(t, b, e) })
	}
}
