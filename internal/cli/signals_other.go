//go:build !unix

package cli

import "context"

// listen does nothing where there are no such signals.
func (l *running) listen(context.Context) (stop func()) { return func() {} }
