package volume

import (
	"slices"
	"testing"
)

func TestReadings(t *testing.T) {
	for _, test := range []struct {
		axes string
		size [4]int // C, D, H, W as read
		want [4]int
		list []string
	}{
		{"CDHW", [4]int{5, 6, 7, 1}, [4]int{1, 0, 0, 0}, []string{"DHWC"}},            // channels last in NumPy
		{"DHW", [4]int{1, 8, 20, 24}, [4]int{8, 1, 20, 24}, []string{"CHW"}},          // slices as channels of images
		{"DHWC", [4]int{3, 7, 9, 11}, [4]int{1, 0, 0, 0}, nil},                        // three channels are three channels
		{"DHW", [4]int{1, 11, 9, 7}, [4]int{1, 7, 9, 11}, []string{"WHD"}},            // as ITK's arrays
		{"DHW", [4]int{1, 9, 9, 7}, [4]int{1, 7, 9, 9}, []string{"HWD", "WHD"}},       // either fits
		{"CDHW", [4]int{4, 1, 20, 24}, [4]int{1, 4, 20, 24}, []string{"DCHW"}},        // a stack with an axis of channels
		{"NCDHW", [4]int{5, 6, 7, 1}, [4]int{1, 5, 6, 7}, []string{"NDHWC", "CDHWN"}}, // either is right
		{"HWD", [4]int{1, 3, 20, 24}, [4]int{3, 1, 20, 24}, []string{"HWC"}},
		{"DHW", [4]int{1, 5, 6, 7}, [4]int{1, 5, 6, 7}, nil}, // fits already
		{"DHW", [4]int{1, 5, 6, 7}, [4]int{5, 6, 0, 7}, nil}, // not CDW: a volume without height; nor HDW: its one channel is not five
		{"", [4]int{5, 6, 7, 1}, [4]int{1, 0, 0, 0}, nil},
		{"DHW", [4]int{1, 5, 6, 7}, [4]int{1, 5, 6, 8}, nil},
	} {
		v := &Volume{Axes: test.axes, Channels: test.size[0], Depth: test.size[1], Height: test.size[2], Width: test.size[3]}
		got := v.Readings(test.want)
		slices.Sort(got)
		slices.Sort(test.list)
		if !slices.Equal(got, test.list) {
			t.Errorf("%s %v as %v: %v, want %v", test.axes, test.size, test.want, got, test.list)
		}
	}
}
