// Package dataset knows what is to be explained: it reads the configuration, the table of labels, deals samples to splits,
// and prepares a volume the way the network saw its like in training (cropped or padded, scaled). Nothing in it is random
// but the shuffle of the splits, which is seeded, and nothing is guessed from a size.
//
//	config, err := dataset.Load("config.toml")   // our own keys, or the original system's file
//	config.Explain.NSamples = 20                 // flags set fields
//	err = config.Validate()                      // all complaints at once
//	set, err := dataset.Open(config)             // labels and splits; a bad row is a bad sample, not an error
//	samples, err := set.Select()                 // those of config.Data.Dataset, at most MaxSamples a split
//	prepared, err := set.Prepare(ctx, samples[0]) // what the network gets
package dataset
