//go:build amd64 && !noasm

package kernel

import "golang.org/x/sys/cpu"

// native returns the assembly implementations that this processor can run, the best first.
func native() (sets []*Set) {
	avx2 := cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasBMI2
	if avx2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512BW {
		sets = append(sets, set512())
	}
	if avx2 {
		sets = append(sets, set256())
	}
	return sets
}

func set512() *Set {
	return (&Set{
		name:      "avx512",
		lanes:     16,
		tiles:     []tile{{64, 6, gemm512x4x6}, {48, 8, gemm512x3x8}, {32, 12, gemm512x2x12}, {16, 12, gemm512x1x12}},
		split:     []int{3, 3, 2, 1, 0, 1, 1, 0, 0},
		depthwise: [3]depthwiseFunc{depthwise512x2, depthwise512x1, depthwise512x1m},
		pool: [numPool][2]poolFunc{
			poolMax:   {maxPool512, maxPool512m},
			poolIndex: {maxIndex512, maxIndex512m},
			poolMean:  {meanPool512, meanPool512m},
		},
		copyRows: copyRows512,
		addRows:  addRows512,
		unary: [numUnary]unaryFunc{
			opRelu:        relu512,
			opLeaky:       leaky512,
			opClip:        clip512,
			opSigmoid:     sigmoid512,
			opSilu:        silu512,
			opTanh:        tanh512,
			opGelu:        gelu512,
			opGeluTanh:    geluTanh512,
			opSoftplus:    softplus512,
			opMish:        mish512,
			opElu:         elu512,
			opHardSigmoid: hardSigmoid512,
			opHardSwish:   hardSwish512,
			opExp:         exp512,
			opAffine:      affine512,
		},
		binary: [numBinary]binaryFunc{
			opReluGrad:      reluGrad512,
			opLeakyGrad:     leakyGrad512,
			opClipGrad:      clipGrad512,
			opSigmoidGrad:   sigmoidGrad512,
			opSiluGrad:      siluGrad512,
			opTanhGrad:      tanhGrad512,
			opGeluGrad:      geluGrad512,
			opGeluTanhGrad:  geluTanhGrad512,
			opSoftplusGrad:  softplusGrad512,
			opMishGrad:      mishGrad512,
			opEluGrad:       eluGrad512,
			opHardSigGrad:   hardSigGrad512,
			opHardSwishGrad: hardSwishGrad512,
			opMulGrad:       mulGrad512,
			opAdd:           add512,
			opSub:           sub512,
			opMul:           mul512,
			opDiv:           div512,
			opAxpy:          axpy512,
			opFMA:           mulAdd512,
		},
		channel: [numChannel]channelFunc{scaleShift512, scale512, shift512, prelu512, preluGrad512},
		reduce:  [numReduce]reduceFunc{sum512, dot512, variance512},
	}).finish()
}

func set256() *Set {
	return (&Set{
		name:      "avx2",
		lanes:     8,
		tiles:     []tile{{16, 6, gemm256x2x6}, {8, 8, gemm256x1x8}},
		split:     []int{1, 1, 0},
		depthwise: [3]depthwiseFunc{depthwise256x2, depthwise256x1, depthwise256x1m},
		pool: [numPool][2]poolFunc{
			poolMax:   {maxPool256, maxPool256m},
			poolIndex: {maxIndex256, maxIndexGo},
			poolMean:  {meanPool256, meanPool256m},
		},
		copyRows: copyRows256,
		addRows:  addRows256,
		unary: [numUnary]unaryFunc{
			opRelu:        relu256,
			opLeaky:       leaky256,
			opClip:        clip256,
			opSigmoid:     sigmoid256,
			opSilu:        silu256,
			opTanh:        tanh256,
			opGelu:        gelu256,
			opGeluTanh:    geluTanh256,
			opSoftplus:    softplus256,
			opMish:        mish256,
			opElu:         elu256,
			opHardSigmoid: hardSigmoid256,
			opHardSwish:   hardSwish256,
			opExp:         exp256,
			opAffine:      affine256,
		},
		binary: [numBinary]binaryFunc{
			opReluGrad:      reluGrad256,
			opLeakyGrad:     leakyGrad256,
			opClipGrad:      clipGrad256,
			opSigmoidGrad:   sigmoidGrad256,
			opSiluGrad:      siluGrad256,
			opTanhGrad:      tanhGrad256,
			opGeluGrad:      geluGrad256,
			opGeluTanhGrad:  geluTanhGrad256,
			opSoftplusGrad:  softplusGrad256,
			opMishGrad:      mishGrad256,
			opEluGrad:       eluGrad256,
			opHardSigGrad:   hardSigGrad256,
			opHardSwishGrad: hardSwishGrad256,
			opMulGrad:       mulGrad256,
			opAdd:           add256,
			opSub:           sub256,
			opMul:           mul256,
			opDiv:           div256,
			opAxpy:          axpy256,
			opFMA:           mulAdd256,
		},
		channel: [numChannel]channelFunc{scaleShift256, scale256, shift256, prelu256, preluGrad256},
		reduce:  [numReduce]reduceFunc{sum256, dot256, variance256},
	}).finish()
}
