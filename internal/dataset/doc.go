// Package dataset reads the table of labels, deals samples to splits, and prepares a volume the way the network saw its like in
// training: cropped or padded, then scaled. The only random step, the shuffle of the splits, is seeded, and nothing is guessed from
// a size.
//
//	set, err := dataset.Open(options)             // labels and splits; a bad row is a bad sample, not an error
//	samples, err := set.Select()                  // those of options.Dataset, at most options.MaxSamples a split
//	prepared, err := set.Prepare(ctx, samples[0]) // the network's input
package dataset
