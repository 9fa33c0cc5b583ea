// Package dl opens shared libraries at run time and calls their functions, without cgo and without panics: a missing library is an error
// that says which files were looked for and where. On systems where this is not possible every library is missing.
package dl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SharedObject is an open shared library. It stays loaded until the process ends.
type SharedObject struct {
	handle uintptr
	path   string
}

// MissingError says that a library was found nowhere.
type MissingError struct {
	Names []string // the file names, in the order of preference
	Dirs  []string // the folders searched after the loader's own path
	Found string   // a file of that name that is there but cannot be loaded
	Cause error    // the loader's error about that file, or the reason why it cannot load any; nil where there is none
}

func (e *MissingError) Error() string {
	if e.Found != "" {
		return fmt.Sprintf("%s cannot be loaded: %s", e.Found, strings.TrimPrefix(e.Cause.Error(), e.Found+": "))
	}
	text := strings.Join(e.Names, " or ") + " was not found"
	if len(e.Names) > 1 || !filepath.IsAbs(e.Names[0]) {
		text += " on the loader's path"
	}
	if len(e.Dirs) > 0 {
		text += " nor in " + strings.Join(e.Dirs, ", ")
	}
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

func (e *MissingError) Unwrap() error { return e.Cause }

// Open loads the first library that it finds: each name by itself, where the system's loader looks, then in each of the folders. A name
// that is a path is loaded as it is. The symbols become visible to libraries that are loaded later (RTLD_GLOBAL), so the needs of a
// library can be opened before it by their full paths.
func Open(names, dirs []string) (*SharedObject, error) {
	missing := &MissingError{Names: names, Dirs: dirs}
	broken := func(path string, err error) { // says more than that there is none
		if missing.Found == "" {
			missing.Found, missing.Cause = path, err
		}
	}
	for _, name := range names {
		handle, err := open(name)
		if err == nil {
			return &SharedObject{handle, locate(handle, name)}, nil
		}
		if _, stat := os.Stat(name); filepath.IsAbs(name) && stat == nil {
			broken(name, err)
		} else if missing.Cause == nil && !absent(err, name) {
			missing.Cause = err
		}
	}
	for _, dir := range dirs {
		for _, name := range names {
			if strings.ContainsRune(name, filepath.Separator) {
				continue
			}
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			handle, err := open(path)
			if err == nil {
				return &SharedObject{handle, path}, nil
			}
			broken(path, err)
		}
	}
	return nil, missing
}

// absent reports whether the loader says of a library just that there is none, as glibc words it.
func absent(err error, name string) bool {
	return strings.HasPrefix(err.Error(), name+": cannot open shared object file: No such file")
}

// Path is the file that was loaded, or the name by which the loader found it.
func (l *SharedObject) Path() string { return l.path }

// Symbol is the address of a function of the library.
func (l *SharedObject) Symbol(name string) (uintptr, error) {
	at, err := symbol(l.handle, name)
	if err != nil {
		return 0, fmt.Errorf("%s has no function %s: %w", l.path, name, err)
	}
	return at, nil
}

// Symbol is a function that a table asks for: its address goes to *To.
type Symbol struct {
	Name     string
	To       *uintptr
	Optional bool // *To is 0 where the library lacks it
}

// Bind looks up a table of functions. The error names all that are missing.
func Bind(l *SharedObject, table []Symbol) error {
	var missing []string
	for _, s := range table {
		at, err := symbol(l.handle, s.Name)
		*s.To = at
		if err != nil {
			*s.To = 0
			if !s.Optional {
				missing = append(missing, s.Name)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("%s lacks %s: it is another library or too old", l.path, strings.Join(missing, ", "))
}
