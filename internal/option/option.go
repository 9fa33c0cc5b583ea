// Package option checks the values of options by tables of rules, one row an option.
package option

import (
	"errors"
	"fmt"
)

// Rule is a row of a table: Check returns what is wrong with one option of a T, nil for nothing. The error begins with the value.
type Rule[T any] struct {
	Option string // as records and configurations spell it
	Check  func(T) error
}

// CheckAll returns all that is wrong with t, each wrapped with the option's name, joined.
func CheckAll[T any](rules []Rule[T], t T, wrap func(option string, err error) error) error {
	var errs []error
	for _, r := range rules {
		if err := r.Check(t); err != nil {
			errs = append(errs, wrap(r.Option, err))
		}
	}
	return errors.Join(errs...)
}

// CheckOne returns what is wrong with one option of t.
func CheckOne[T any](rules []Rule[T], option string, t T) error {
	for _, r := range rules {
		if r.Option == option {
			return r.Check(t)
		}
	}
	return fmt.Errorf("internal error, please report it: there is no option %q", option)
}

// Prefix puts text before an error, if there is one.
func Prefix(text string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s%w", text, err)
}
