// Package option checks the values of options by tables of rules, one row an option, and names options in texts.
package option

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Rule is a row of a table: Check returns the fault of one option of a T, nil for none. The error begins with the value.
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

// CheckOne returns the fault of one option of t, nil for none.
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

// Mention names an option in a text: "the option token_grid". A reader may set the option in a configuration, by a
// flag, or as the field of a struct: Rename puts that name in place of the mention.
func Mention(name string) string { return mentions + name }

const mentions = "the option "

// mentioned are the mentions in a text.
var mentioned = regexp.MustCompile(mentions + `([a-z]+(?:_[a-z]+)*)`)

// Rename replaces each mention in a text by another word, if word has one for its option.
func Rename(text string, word func(option string) (string, bool)) string {
	return mentioned.ReplaceAllStringFunc(text, func(found string) string {
		if other, ok := word(strings.TrimPrefix(found, mentions)); ok {
			return other
		}
		return found
	})
}

// OneOf returns an error if a value is none of those allowed; it suggests the nearest of them.
func OneOf(value string, allowed []string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("is %q; choose one of: %s%s", value, strings.Join(allowed, ", "), DidYouMean(value, allowed))
}

// longWord is the length from which no word is compared: comparing takes time by the length, and so long a word is no typing error.
const longWord = 200

// DidYouMean suggests the nearest of some words, without regard to case, if any is near: "; did you mean exact?". Otherwise it is empty.
func DidYouMean(word string, words []string) string {
	if best := Nearest(strings.ToLower(word), words, 1+len(word)/2); best != "" {
		return "; did you mean " + best + "?"
	}
	return ""
}

// Nearest returns the first of the words with the fewest edits from word, fewer than below; empty if there is none.
func Nearest(word string, words []string, below int) (best string) {
	if len(word) > longWord {
		return ""
	}
	for _, w := range words {
		if d := levenshtein.ComputeDistance(word, strings.ToLower(w)); d < below {
			best, below = w, d
		}
	}
	return best
}
