package bytesize

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int{
		"0": 0, "800000": 800000, "1b": 1, "512MiB": 512 << 20, "512 mib": 512 << 20, " 1.5GiB ": 3 << 29, "64MB": 64e6, "2k": 2048,
		"1KB": 1000, "1TiB": 1 << 40, "3t": 3 << 40, "2TB": 2e12, ".5KiB": 512, "1152921504606846976": 1 << 60, "9007199254740993": 1<<53 + 1,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v instead of %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "MiB", "-1", "1e9", "0x10", "inf", "nan", "1.2.3", ".", "5 apples", "5MiBs", "1 2MiB", "9999999TiB", "1152921504606846977",
		strings.Repeat("9", 400), "٣MiB",
	} {
		if n, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d without an error", text, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"512MiB", "1.5 GiB", "64MB", "0", "9e9", "99999999999999999999T", "1..2k", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && (n < 0 || n > most) {
			t.Errorf("Parse(%q) = %d", s, n)
		}
		if b, err := ParseBudget(s); err == nil {
			if n, err := b.Bytes(func() (int, error) { return 1 << 40, nil }); err != nil || n < 0 || n > most || n == 0 && !b.Min() {
				t.Errorf("a budget of %q is %d bytes, %v", s, n, err)
			}
		}
	})
}

func TestFormat(t *testing.T) {
	for n, want := range map[int]string{
		0: "0 B", 830: "830 B", 1024: "1 KiB", 65641841: "62.6 MiB", 5 << 28: "1.25 GiB", 1<<20 - 1: "1 MiB", 999 << 20: "999 MiB",
		1023 << 20: "1023 MiB", 3 << 50: "3072 TiB", -2048: "-2 KiB",
	} {
		if got := Format(n); got != want {
			t.Errorf("Format(%d) = %q instead of %q", n, got, want)
		}
	}
}

// What a refusal prints as the smallest budget must work when it is typed.
func TestFormatUpSuffices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<45).Draw(t, "n") >> rapid.IntRange(0, 44).Draw(t, "shift")
		text := FormatUp(n)
		got, err := Parse(text)
		if err != nil || got < n || float64(got) > 1.02*float64(n)+1 {
			t.Fatalf("FormatUp(%d) = %q, read as %d, %v", n, text, got, err)
		}
	})
}

func TestBudget(t *testing.T) {
	free := func() (int, error) { return 1000, nil }
	for text, want := range map[string]int{"": 600, "auto": 600, "AUTO": 600, "min": 0, "50%": 500, "12.5 %": 125, "100%": 1000, "2KiB": 2048} {
		b, err := ParseBudget(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if n, err := b.Bytes(free); err != nil || n != want || b.Min() != (text == "min") {
			t.Errorf("%q is %d bytes, %v instead of %d", text, n, err, want)
		}
		if again, err := ParseBudget(b.String()); err != nil || again != b {
			t.Errorf("%q prints as %q, which is not the same budget", text, b)
		}
	}
	for _, text := range []string{"0", "0MiB", "0%", "101%", "-5%", "nan%", "%", "most", "5 apples"} {
		if b, err := ParseBudget(text); err == nil {
			t.Errorf("%q is the budget %v without an error", text, b)
		}
	}
	unknown := errors.New("unknown")
	fail := func() (int, error) { return 0, unknown }
	for text, want := range map[string]error{"auto": unknown, "50%": unknown, "min": nil, "1MiB": nil} {
		b, err := ParseBudget(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Bytes(fail); !errors.Is(err, want) {
			t.Errorf("%q without knowing what is free: %v", text, err)
		}
	}
	if n, err := (Budget{}).Bytes(func() (int, error) { return 0, nil }); err == nil {
		t.Errorf("auto is %d bytes when nothing is free", n)
	}
}
