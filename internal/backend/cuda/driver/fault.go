package driver

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
)

// ParseFaults reads injected faults, calls that are to fail in tests: parts separated by commas, each CALL:N:CODE or CALL:N:CODE:repeat.
// CALL is a function of the library, as cuMemCreate, or any; its Nth call, counted from 1, or with repeat each Nth, is not made and
// gives the error CODE. cuMemCreate:3:2 refuses the third piece of memory; any:1000:999:repeat fails each thousandth call.
func ParseFaults(text string) (Intercept, error) {
	type fault struct {
		call   string
		n      int64
		code   int
		repeat bool
		made   atomic.Int64 // calls so far
	}
	var faults []*fault
	for part := range strings.SplitSeq(text, ",") {
		fields := strings.Split(strings.TrimSpace(part), ":")
		f := &fault{call: fields[0], repeat: len(fields) == 4}
		if len(fields) < 3 || len(fields) > 4 || f.repeat && fields[3] != "repeat" || f.call != "any" && !strings.HasPrefix(f.call, "cu") {
			return nil, fmt.Errorf("fault %q is not CALL:N:CODE or CALL:N:CODE:repeat with a function of the driver, or any", part)
		}
		var err error
		if f.n, err = strconv.ParseInt(fields[1], 10, 64); err != nil || f.n < 1 {
			return nil, fmt.Errorf("fault %q: %q is not a number of calls from 1 on", part, fields[1])
		}
		if f.code, err = strconv.Atoi(fields[2]); err != nil || f.code < 1 {
			return nil, fmt.Errorf("fault %q: %q is not a code of an error", part, fields[2])
		}
		faults = append(faults, f)
	}
	return func(call string) (code int) {
		for _, f := range faults {
			if f.call != "any" && f.call != call {
				continue
			}
			if n := f.made.Add(1); n == f.n || f.repeat && n%f.n == 0 {
				code = f.code
			}
		}
		return code
	}, nil
}
