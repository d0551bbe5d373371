package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// writeOutput writes a file as a whole, or to stdout if it has no name: until all is written
// an old one stays as it is. It may not be the file that is read.
func writeOutput(stdout io.Writer, path, from string, write func(io.Writer) error) error {
	if path == "" || path == "-" {
		w := bufio.NewWriter(stdout)
		return errors.Join(write(w), outputError(w.Flush()))
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	info, err := os.Stat(path)
	source, sourceErr := os.Stat(from)
	switch {
	case err == nil && sourceErr == nil && os.SameFile(info, source):
		return usage("%s is the file of results itself: name another with -o", path)
	case err == nil && !info.Mode().IsRegular():
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return outputError(err)
		}
		w := bufio.NewWriter(f)
		return errors.Join(write(w), outputError(errors.Join(w.Flush(), f.Close())))
	}
	mode := os.FileMode(0o644)
	if sourceErr == nil {
		mode = source.Mode().Perm() // answers that nobody else may read stay so
	}
	if err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".llmq-*")
	if err != nil {
		return outputError(err)
	}
	defer os.Remove(f.Name()) // unless it has its name by then
	w := bufio.NewWriter(f)
	if err := write(w); err != nil {
		return errors.Join(outputError(w.Flush()), err, f.Close())
	}
	if err := errors.Join(w.Flush(), f.Chmod(mode), f.Close()); err != nil {
		return outputError(err)
	}
	return outputError(os.Rename(f.Name(), path))
}

func outputError(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{exitOutput, fmt.Errorf("the output cannot be written: %w", err)}
}
