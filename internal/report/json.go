package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/voxcam/voxcam/internal/input"
)

// sealed is a record whose last key in JSON, sealKey, is a digest of all before it, so that no damage goes unnoticed. It is no
// protection: whoever changes a record on purpose can write a digest that fits.
type sealed interface{ seal() *string }

const sealKey = "record_sha256"

func (s *Sample) seal() *string  { return &s.Digest }
func (s *Session) seal() *string { return &s.Digest }

// WriteJSON writes a record, indented, with a final newline. It fills in the digest of a *Sample or *Session.
func WriteJSON(w io.Writer, record any) error {
	if s, ok := record.(sealed); ok {
		*s.seal() = ""
		var text bytes.Buffer
		if err := encoder(&text).Encode(record); err != nil {
			return err
		}
		*s.seal() = sum(bytes.TrimSuffix(text.Bytes(), []byte("}\n")))
	}
	e := encoder(w)
	e.SetIndent("", "  ")
	return e.Encode(record)
}

func encoder(w io.Writer) *json.Encoder {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e
}

func sum(text []byte) string {
	digest := sha256.Sum256(text)
	return hex.EncodeToString(digest[:])
}

// ReadJSON reads a record of at most most bytes. A digest in it must fit; the caller knows whether there must be one.
func ReadJSON(folder fs.FS, name string, most int64, record any) error {
	f, err := folder.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := input.ReadAll(f, name, most)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, record); err != nil {
		return err
	}
	s, ok := record.(sealed)
	if !ok || *s.seal() == "" {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return err
	}
	before, found := strings.CutSuffix(compact.String(), `,"`+sealKey+`":"`+*s.seal()+`"}`)
	if !found || sum([]byte(before)) != *s.seal() {
		return errors.New("its content does not fit its digest (" + sealKey + ")")
	}
	return nil
}
