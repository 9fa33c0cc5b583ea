package cam

// Fit is the answer whether and how a run would fit into the memory that is free now. As JSON its keys are stable: programs read them.
type Fit struct {
	Model  string `json:"model"`               // the file
	Fits   bool   `json:"fits"`                // on the device that was asked for, or on the processor if the policy lets it go on
	Device string `json:"device"`              // the device that would compute
	Level  Level  `json:"level,omitempty"`     // the lowest of the passes
	Budget int    `json:"budget_bytes"`        // 0: the least that works
	Free   int    `json:"free_bytes"`          // free memory, of which the budget is a part
	Reason string `json:"reason,omitempty"`    // the reason why it does not fit, or not on the device
	Draws  int    `json:"n_samples,omitempty"` // number of draws under the policy; 0 if no method draws
	Passes []Pass `json:"passes"`              // the passes that the methods need
	// Seconds is an estimate for one volume, by Basis.
	Seconds float64 `json:"estimated_seconds_per_volume"`
	Basis   string  `json:"estimate_basis"` // the rates that estimates rest on, for people
}

// Pass has the memory and time of one pass through the network and its gradient. Sizes are in bytes.
type Pass struct {
	Name     string   `json:"pass"`                          // for people
	Methods  []string `json:"methods"`                       // the methods that share it
	Level    Level    `json:"level,omitempty"`               // "" if it does not fit
	Needs    int      `json:"needs_bytes"`                   // of the budget: the arena, weights and, on a GPU, volumes and maps; the least if it does not fit
	Arena    int      `json:"arena_bytes"`                   // of activations and gradients, by the plan
	Weights  int      `json:"weights_bytes"`                 // of copies of the weights, and of working memory of steps
	Fields   int      `json:"device_volume_bytes,omitempty"` // of volumes, gradients and maps on a GPU
	Whole    int      `json:"whole_tensor_bytes"`            // of the arena with whole tensors
	Runs     int      `json:"runs"`                          // of the pass for one volume
	Seconds  float64  `json:"estimated_seconds"`             // of one of them
	Smallest int      `json:"smallest_arena_bytes"`          // of the arena, by the smallest plan
	Err      error    `json:"-"`                             // the reason why it does not fit: a *BudgetError if the budget is too small
}
