package report

import (
	"bytes"
	"encoding/json"
	"image/png"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/voxcam/voxcam/cam"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const giB = 1 << 30

// timeline is one of two runs, the first of which was killed.
func timeline() (all []Moment) {
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	figures := func(s, free, ours, others int) Moment {
		return Moment{Time: at(s), Sample: "a", Figures: &Figures{GPUTotal: 80 * giB, GPUUsed: (ours + others) * giB, GPUFree: free * giB,
			Reserved: (ours - 1) * giB, Overhead: giB, HostAvailable: 100 * giB, Resident: giB, Worker: 2 * giB, Level: cam.LevelWhole}}
	}
	all = append(all, Moment{Time: at(0), Run: Begun})
	for s := range 60 {
		all = append(all, figures(s, 70-s/2, 4+s/10, 6+s/3))
	}
	all = append(all, Moment{Time: at(40), Sample: "a", Event: cam.EventSmaller, Text: "less"},
		Moment{Time: at(7200), Run: Begun})
	for s := range 90 {
		all = append(all, figures(7200+s, 40, 5, 30))
	}
	return append(all, Moment{Time: at(7230), Event: cam.EventRestart, Text: "the worker was killed"}, Moment{Time: at(7290), Run: Ended})
}

func asLines(t *testing.T, moments []Moment) string {
	t.Helper()
	var b strings.Builder
	e := json.NewEncoder(&b)
	for _, m := range moments {
		if err := e.Encode(m); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// What a crash or a full disk leaves of a line is passed over, wherever it is, and so is what nobody of ours wrote.
func TestReadTimelinePassesOverTornLines(t *testing.T) {
	all := timeline()
	if moments, err := ReadTimeline(fstest.MapFS{}); err != nil || moments != nil {
		t.Errorf("a file that is not there: %v, %v", moments, err)
	}
	whole := asLines(t, all)
	head := asLines(t, all[:3])
	for name, tc := range map[string]struct {
		text string
		want []Moment
	}{
		"whole":               {whole, all},
		"torn":                {whole + `{"time":"2026-01-02T12:`, all},
		"torn before its end": {strings.TrimSuffix(whole, "\n"), all[:len(all)-1]},
		"zeros":               {head + strings.Repeat("\x00", 100) + "\n" + asLines(t, all[3:]), all},
		"long":                {head + strings.Repeat("x", 1<<17) + "\n" + asLines(t, all[3:]), all},
		"other":               {"{}\n[]\n\n" + whole, all},
		"empty":               {"", nil},
	} {
		if got, err := ReadTimeline(fstest.MapFS{TimelineFile: {Data: []byte(tc.text)}}); err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %d moments instead of %d, %v", name, len(got), len(tc.want), err)
		}
	}
}

func TestExtremes(t *testing.T) {
	want := &Extremes{Runs: 2, Seconds: 59 + 90, Figures: 150, GPUTotal: 80 * giB, LeastFree: 40 * giB, MostOurs: 9 * giB, MostOthers: 30 * giB,
		MostResident: 3 * giB, LeastAvailable: 100 * giB}
	if got := extremes(timeline()); *got != *want {
		t.Errorf("%+v instead of %+v", got, want)
	}
	if e := extremes([]Moment{{Time: noon, Run: Begun}}); e != nil {
		t.Errorf("nothing is known, yet %+v", e)
	}
}

func TestTimelinePlot(t *testing.T) {
	for name, tc := range map[string]struct {
		moments []Moment
		panels  int
	}{
		"both":    {timeline(), 2},
		"host":    {[]Moment{{Time: noon, Figures: &Figures{Resident: giB, HostAvailable: 3 * giB}}, {Time: noon.Add(time.Hour), Figures: &Figures{Resident: giB}}}, 1},
		"one":     {[]Moment{{Time: noon, Figures: &Figures{Resident: giB}}}, 1},
		"zeros":   {[]Moment{{Time: noon, Figures: &Figures{}}}, 1},
		"nothing": {nil, 1},
	} {
		var b bytes.Buffer
		if err := WriteTimelinePlot(&b, tc.moments, 100); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		img, err := png.DecodeConfig(&b)
		if err != nil || img.Height != tc.panels*400 {
			t.Errorf("%s: %v, %+v", name, err, img)
		}
	}
}

// Thinning keeps every second line of figures, the marks of runs and, as long as they are few, all incidents.
func TestThin(t *testing.T) {
	all := timeline()
	count := func(moments []Moment) (figures, incidents, marks int) {
		for _, m := range moments {
			switch {
			case m.Figures != nil:
				figures++
			case m.Event != "":
				incidents++
			default:
				marks++
			}
		}
		return figures, incidents, marks
	}
	if f, i, m := count(Thin(all, 100)); f != 75 || i != 2 || m != 3 {
		t.Errorf("%d figures, %d incidents, %d marks", f, i, m)
	}
	if f, i, m := count(Thin(all, 2)); f != 75 || i != 1 || m != 3 {
		t.Errorf("%d figures, %d incidents, %d marks of too many incidents", f, i, m)
	}
}

// Of several targets the lowest level counts, and every incident.
func TestJoin(t *testing.T) {
	incident := func(k cam.EventKind) []cam.Event { return []cam.Event{{Kind: k}} }
	whole := cam.Execution{Device: "cuda:0", Level: cam.LevelWhole, Arena: 100, Events: incident(cam.EventLarger)}
	small := cam.Execution{Device: "cuda:0", Level: cam.LevelSmallest, Arena: 10, Events: incident(cam.EventSmaller)}
	stopped := cam.Execution{Events: incident(cam.EventSkipped)}
	for name, tc := range map[string]struct {
		parts []cam.Execution
		level cam.Level
		arena int
		kinds string
	}{
		"falls":   {[]cam.Execution{whole, small}, cam.LevelSmallest, 10, "larger smaller"},
		"rises":   {[]cam.Execution{small, whole}, cam.LevelSmallest, 10, "smaller larger"},
		"ends":    {[]cam.Execution{whole, stopped}, cam.LevelWhole, 100, "larger skipped"},
		"nothing": {[]cam.Execution{{}, whole, {}}, cam.LevelWhole, 100, "larger"},
	} {
		var e *cam.Execution
		for _, p := range tc.parts {
			e = Join(e, p)
		}
		var kinds []string
		for _, i := range e.Events {
			kinds = append(kinds, string(i.Kind))
		}
		if e.Level != tc.level || e.Arena != tc.arena || strings.Join(kinds, " ") != tc.kinds {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if Join(nil, cam.Execution{}) != nil {
		t.Error("nothing is known, yet there is an execution")
	}
	if len(whole.Events) != 1 {
		t.Error("joining changed a part")
	}
}

// Skipped samples have no result: they count as samples, and lower no figure that is over results.
func TestSkippedSamplesLowerNothing(t *testing.T) {
	skipped := failed("train", "k")
	skipped.Status, skipped.Reason = cam.StatusSkipped, "0.3 GiB are free, and the smallest plan takes 0.9"
	skipped.Execution = &cam.Execution{Events: []cam.Event{{Kind: cam.EventRefused}, {Kind: cam.EventSkipped}}}
	all := append(samples(), skipped)
	all[0].Execution = &cam.Execution{Level: cam.LevelHost, Events: []cam.Event{{Kind: cam.EventRefused}}}
	before, o := Aggregate(session(), samples(), time.Time{}), Aggregate(session(), all, time.Time{})
	train := o.Splits["train"]
	if *o.Overall.Accuracy != *before.Overall.Accuracy || o.Overall.Processed != before.Overall.Processed || *train.Seconds != 2 ||
		train.Status != (Counts{OK: 3, Failed: 1, Skipped: 1}) || train.Status.All() != 5 {
		t.Errorf("%+v, %+v", o.Overall, train)
	}
	if !reflect.DeepEqual(o.Memory.Events, map[cam.EventKind]int{"refused": 2, "skipped": 1}) || o.Memory.Levels[cam.LevelHost] != 1 {
		t.Errorf("%+v", o.Memory)
	}
	o.Memory.Timeline = extremes(timeline())
	var b bytes.Buffer
	if err := WriteText(&b, session(), o, all, "dir"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 ok, 0 degraded, 2 failed, 1 skipped for lack of memory", "SKIPPED FOR LACK OF MEMORY (1)", "train/k: 0.3 GiB are free",
		"Samples by level: 1 host", "Incidents:        2 refused, 1 skipped", "Observed:         2 runs", "80.00 GiB; at most 9.00 GiB by this session",
		"1 sample without a result, because there was too little memory"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
}
