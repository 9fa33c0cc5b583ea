package config

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/bytesize"
)

// value is a field of a Config, set from a value of TOML or of a flag.
type value struct {
	set func(v any) error // checks the type; v is an int64, float64, string, bool or []any of TOML, or of the field's own type
	get func() any
}

// text returns the field in the form of session records: texts as they are, all else as JSON with sorted maps.
func (v value) text() string {
	x := v.get()
	if s, ok := x.(string); ok {
		return s
	}
	text, err := json.Marshal(x)
	if err != nil { // plain values can always be encoded
		return fmt.Sprint(x)
	}
	return string(text)
}

// shown returns the field as people write it in a file, without quotes; empty if it is not set.
func (v value) shown() string {
	switch x := v.get().(type) {
	case time.Duration:
		return strconv.FormatFloat(x.Seconds(), 'g', -1, 64)
	case bytesize.Budget:
		return x.String()
	}
	return strings.TrimPrefix(v.text(), "null")
}

// field returns a field of type T. Values of other types become one by read.
func field[T any](at *T, read func(v any) (T, error)) value {
	return value{
		set: func(v any) error {
			x, ok := v.(T)
			if !ok {
				var err error
				if x, err = read(v); err != nil {
					return err
				}
			}
			*at = x
			return nil
		},
		get: func() any { return *at },
	}
}

const wantText = "a text in quotes"

func text(at *string) value           { return field(at, only[string](wantText)) }
func texts(at *[]string) value        { return field(at, readTexts) }
func integer(at *int) value           { return field(at, readInteger("an integer")) }
func natural(at *uint64) value        { return field(at, readNatural) }
func boolean(at *bool) value          { return field(at, only[bool]("true or false")) }
func seconds(at *time.Duration) value { return field(at, readSeconds) }

// choice returns a boolean for a field that is nil where nothing was chosen.
func choice(at **bool) value {
	return field(at, func(v any) (*bool, error) {
		b, err := only[bool]("true or false")(v)
		return &b, err
	})
}

// only reads nothing but a T.
func only[T any](want string) func(v any) (T, error) {
	return func(v any) (T, error) {
		x, ok := v.(T)
		if !ok {
			return x, wrongType(v, want)
		}
		return x, nil
	}
}

// list reads each element of a list.
func list[T any](v any, want string, read func(v any) (T, error)) ([]T, error) {
	elements, ok := v.([]any)
	if !ok {
		return nil, wrongType(v, want)
	}
	out := make([]T, len(elements))
	for i, e := range elements {
		var err error
		if out[i], err = read(e); err != nil {
			return nil, wrongType(e, want)
		}
	}
	return out, nil
}

func readTexts(v any) ([]string, error) {
	const want = "a list of texts"
	return list(v, want, only[string](want))
}

// readMethods reads a list, or one text, as in methods = "all".
func readMethods(v any) ([]string, error) {
	if s, ok := v.(string); ok {
		return []string{s}, nil
	}
	return readTexts(v)
}

func readInteger(want string) func(v any) (int, error) {
	return func(v any) (int, error) {
		n, ok := v.(int64)
		if !ok || n > math.MaxInt32 || n < math.MinInt32 {
			return 0, wrongType(v, want)
		}
		return int(n), nil
	}
}

func readIntegers(v any) ([]int, error) {
	const want = "a list of integers"
	return list(v, want, readInteger(want))
}

func readNatural(v any) (uint64, error) {
	n, ok := v.(int64)
	if !ok || n < 0 {
		return 0, wrongType(v, "an integer from 0 up")
	}
	return uint64(n), nil
}

func readNumber(v any) (float64, error) {
	switch v := v.(type) {
	case int64:
		return float64(v), nil
	case float64:
		return v, nil
	}
	return 0, wrongType(v, "a number")
}

func readNumbers(v any) ([]float64, error) { return list(v, "a list of three numbers", readNumber) }

func readSeconds(v any) (time.Duration, error) {
	s, err := readNumber(v)
	if err != nil {
		return 0, wrongType(v, "a number of seconds")
	}
	if !(math.Abs(s) <= math.MaxInt32) {
		return 0, fmt.Errorf("is %v; it must be a number of seconds up to %d", v, math.MaxInt32)
	}
	return time.Duration(s * float64(time.Second)), nil
}

func readBudget(v any) (bytesize.Budget, error) {
	s, ok := v.(string)
	if !ok {
		return bytesize.Budget{}, wrongType(v, "a text such as \"512MiB\"")
	}
	return bytesize.ParseBudget(s)
}

// readClass reads a name or an index.
func readClass(v any) (string, error) {
	if n, ok := v.(int64); ok {
		return strconv.FormatInt(n, 10), nil
	}
	return only[string](wantText)(v)
}

func wrongType(v any, want string) error {
	kind := fmt.Sprintf("%T", v)
	switch v := v.(type) {
	case string:
		kind = strconv.Quote(v)
	case int64, float64, bool:
		kind = fmt.Sprint(v)
	case []any:
		kind = "a list"
	case map[string]any:
		kind = "a section"
	}
	return fmt.Errorf("must be %s, not %s", want, kind)
}
