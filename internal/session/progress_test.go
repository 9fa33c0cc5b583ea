package session

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

var someEvents = []Notice{
	{Kind: NoticeStart, Session: "s", Dir: "out/session_s", Total: 3, Resumed: 3},
	{Kind: NoticeBegin, Sample: "a", Split: "val"},
	{Kind: NoticePass, Sample: "a", Split: "val", Passes: 1, PassesTotal: 9},
	{Kind: NoticeSample, Sample: "a", Split: "val", Done: 1, Total: 3, Status: cam.StatusOK, Predicted: "Late", Confidence: 0.75, Seconds: 2, Left: 300},
	{Kind: NoticeWarning, Reason: "odd"},
	{Kind: NoticeDevice, Sample: "b", Split: "val", Device: cam.Event{Kind: cam.EventSmaller, Text: "went on with 300 MiB"}},
	{Kind: NoticeMemory, Sample: "b", Figures: report.Figures{GPUFree: 5}},
	{Kind: NoticeSample, Sample: "b", Split: "val", Done: 2, Total: 3, Status: cam.StatusFailed, Reason: "no file"},
	{Kind: NoticeSample, Sample: "c", Split: "val", Done: 3, Total: 3, Status: cam.StatusSkipped, Reason: "too little"},
	{Kind: NoticeEnd},
}

func progress(t *testing.T, format string, terminal bool) string {
	t.Helper()
	var b bytes.Buffer
	p, err := NewProgress(&b, format, terminal)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range someEvents {
		p.Notify(e)
	}
	p.Close()
	return b.String()
}

func TestPlainLines(t *testing.T) {
	want := `session s in out/session_s: 3 samples to do, 3 already done
[1/3] val/a: ok, Late (0.750), 2.0 s, 5 min left
warning: odd
val/b: smaller: went on with 300 MiB
[2/3] val/b: failed, 0.0 s left: no file
[3/3] val/c: skipped_low_memory: too little
`
	if got := progress(t, "text", false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLongSamplesAreHeardOf(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(0, 0)
	l := &lines{w: &b, clock: func() time.Time { return now }}
	l.Notify(Notice{Kind: NoticeStart})
	b.Reset()
	for pass := 1; pass <= 4; pass++ {
		now = now.Add(20 * time.Second)
		l.Notify(Notice{Kind: NoticePass, Sample: "a", Split: "val", Passes: pass, PassesTotal: 9})
	}
	if got := b.String(); got != "val/a: pass 2 of 9\nval/a: pass 4 of 9\n" {
		t.Errorf("%q", got)
	}
	b.Reset()
	now = now.Add(silence)
	if l.Notify(Notice{Kind: NoticePass, Sample: "a", Split: "val", Passes: 9, PassesTotal: 9}); b.Len() > 0 {
		t.Errorf("%q of the last pass, which a line on the sample follows", b.String())
	}
}

func TestJSONLines(t *testing.T) {
	out := strings.Split(strings.TrimSpace(progress(t, "json", true)), "\n")
	if len(out) != len(someEvents) {
		t.Fatalf("%d lines", len(out))
	}
	last, by := map[string]any{}, map[any]map[string]any{}
	for _, text := range out {
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] == "sample" {
			last = m
		}
		by[m["msg"]] = m
	}
	if last["level"] != "ERROR" || last["status"] != "skipped_low_memory" || last["reason"] != "too little" || last["done"] != 3.0 {
		t.Errorf("%v", last)
	}
	if i := by["incident"]; i["level"] != "WARN" || i["sample"] != "b" || i["incident"] != "smaller" || i["text"] != "went on with 300 MiB" {
		t.Errorf("%v", i)
	}
	if figures, ok := by["memory"]["figures"].(map[string]any); !ok || figures["gpu_free_bytes"] != 5.0 {
		t.Errorf("%v", by["memory"])
	}
}

func TestBar(t *testing.T) {
	got := progress(t, "text", true)
	for _, want := range []string{"session s in out/session_s", "[2/3] val/b: failed, 0.0 s left: no file\n", "warning: odd\n", "val/b: smaller: went on with 300 MiB\n", "(3/3", "100%"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if strings.Contains(got, "val/a: ok") {
		t.Error("a line for a sample that is ok")
	}
}

func TestUnknownLogFormat(t *testing.T) {
	if _, err := NewProgress(&bytes.Buffer{}, "xml", false); err == nil || !strings.Contains(err.Error(), "text or json") {
		t.Errorf("%v", err)
	}
}
