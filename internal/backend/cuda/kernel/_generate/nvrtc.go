package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ebitengine/purego"
)

// The Python package with the compiler. Another version makes other modules; the release of CUDA that it belongs to is the oldest driver
// that takes the PTX.
const (
	release      = "12.4"
	wheelVersion = release + ".127"
	wheelName    = "nvidia_cuda_nvrtc_cu12-12.4.127-py3-none-manylinux2014_x86_64.whl"
	wheelHash    = "a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338"
)

// download gets the package with pip, checks it and unpacks it, unless that was done before.
func download() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "voxcam", "nvrtc-"+wheelVersion)
	wheel := filepath.Join(dir, wheelName)
	data, err := os.ReadFile(wheel)
	if errors.Is(err, os.ErrNotExist) {
		log.Print("downloading ", wheelName)
		pip := exec.Command("python3", "-m", "pip", "download", "nvidia-cuda-nvrtc-cu12=="+wheelVersion, "--no-deps",
			"--only-binary=:all:", "--platform=manylinux2014_x86_64", "--dest", dir)
		pip.Stderr = os.Stderr
		if err := pip.Run(); err != nil {
			return "", fmt.Errorf("pip cannot download the compiler: %w; unpack %s by hand and give its folder with -nvrtc", err, wheelName)
		}
		data, err = os.ReadFile(wheel)
	}
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != wheelHash {
		return "", fmt.Errorf("%s has the SHA-256 %x, not %s", wheel, sum, wheelHash)
	}
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return "", fmt.Errorf("%s: %w", wheel, err)
	}
	for _, f := range archive.File {
		if !strings.Contains(f.Name, "/lib/libnvrtc") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return "", fmt.Errorf("%s: %w", wheel, err)
		}
		library, err := io.ReadAll(r)
		if err != nil {
			return "", fmt.Errorf("%s: %w", wheel, err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(f.Name)), library, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// compiler is the loaded library.
type compiler struct {
	create  func(program *uintptr, source, name string, headers int32, texts, names uintptr) int32
	build   func(program uintptr, n int32, options **byte) int32
	destroy func(program *uintptr) int32
	text    func(code int32) string
	log     getter
	ptx     getter
	cubin   getter
}

// getter is a pair of functions that tell the size of a result and give it.
type getter struct {
	size func(program uintptr, bytes *uint64) int32
	get  func(program uintptr, to *byte) int32
}

func openCompiler(dir string) (*compiler, error) {
	var lib uintptr
	for _, name := range []string{"libnvrtc-builtins.so.12.4", "libnvrtc.so.12"} { // the second needs the first
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err != nil {
			path = filepath.Join(dir, "lib", name)
		}
		var err error
		if lib, err = purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL); err != nil {
			return nil, err
		}
	}
	var c compiler
	var version func(major, minor *int32) int32
	for name, f := range map[string]any{
		"nvrtcVersion": &version, "nvrtcGetErrorString": &c.text, "nvrtcCreateProgram": &c.create, "nvrtcCompileProgram": &c.build,
		"nvrtcDestroyProgram": &c.destroy, "nvrtcGetProgramLogSize": &c.log.size, "nvrtcGetProgramLog": &c.log.get,
		"nvrtcGetPTXSize": &c.ptx.size, "nvrtcGetPTX": &c.ptx.get, "nvrtcGetCUBINSize": &c.cubin.size, "nvrtcGetCUBIN": &c.cubin.get,
	} {
		purego.RegisterLibFunc(f, lib, name)
	}
	var major, minor int32
	if code := version(&major, &minor); code != 0 {
		return nil, errors.New(c.text(code))
	}
	if found := fmt.Sprintf("%d.%d", major, minor); found != release {
		return nil, fmt.Errorf("%s has NVRTC %s; the modules are made with %s", dir, found, release)
	}
	return &c, nil
}

// compile makes a module: a cubin for a target sm_..., PTX for compute_....
func (c *compiler) compile(path, target string) ([]byte, error) {
	source, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var program uintptr
	if code := c.create(&program, string(source), filepath.Base(path), 0, 0, 0); code != 0 {
		return nil, errors.New(c.text(code))
	}
	defer c.destroy(&program)
	var list []*byte
	for _, o := range append([]string{"--gpu-architecture=" + target, "--include-path=" + filepath.Dir(path)}, options...) {
		list = append(list, &append([]byte(o), 0)[0])
	}
	code := c.build(program, int32(len(list)), &list[0])
	text, err := c.log.from(c, program)
	if err != nil {
		return nil, err
	}
	text = bytes.TrimSpace(bytes.TrimRight(text, "\x00"))
	if code != 0 {
		return nil, fmt.Errorf("%s\n%s", c.text(code), text)
	}
	if len(text) > 0 {
		log.Printf("%s for %s:\n%s", filepath.Base(path), target, text)
	}
	if strings.HasPrefix(target, "sm_") {
		return c.cubin.from(c, program)
	}
	ptx, err := c.ptx.from(c, program)
	return bytes.TrimRight(ptx, "\x00"), err
}

func (g getter) from(c *compiler, program uintptr) ([]byte, error) {
	var n uint64
	if code := g.size(program, &n); code != 0 {
		return nil, errors.New(c.text(code))
	}
	if n == 0 {
		return nil, nil
	}
	data := make([]byte, n)
	if code := g.get(program, &data[0]); code != 0 {
		return nil, errors.New(c.text(code))
	}
	return data, nil
}
