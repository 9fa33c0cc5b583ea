package executor

// AskAlways lets Allow know the device's usage of the moment.
func (m *Model) AskAlways() { m.allowance.every = 0 }
