package buffer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The markers are files in the queue's directory that say, to the next process, how far this one came.
const (
	// markerRunning is there while the queue is open: if it is there before, the last stop was none.
	markerRunning = "running"
	// markerOpening holds the name of the generation that is being opened: if it is there before, the
	// process died over that file.
	markerOpening = "opening"
)

// setMarker makes the marker or replaces its content. It is on disk when setMarker returns: a power
// cut is what the check is for that markerRunning asks for.
func setMarker(dir, name, content string) error {
	file, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return syncDir(dir)
}

// readMarker is the content of the marker; false if it is not there.
func readMarker(dir, name string) (string, bool) {
	content, err := os.ReadFile(filepath.Join(dir, name))
	return string(content), err == nil
}

func clearMarker(dir, name string) error { return removeIfThere(filepath.Join(dir, name)) }

// setAside renames the file at path so that it is never opened again, and returns its new path. Its
// content stays as it is.
func setAside(path, why string, now time.Time) (string, error) {
	return rename(path, asideName(path, why, now))
}

// rename gives the file another name in its directory, durably, and returns it.
func rename(path, to string) (string, error) {
	if err := os.Rename(path, to); err != nil {
		return "", err
	}
	return to, syncDir(filepath.Dir(path))
}

// asideName is a name that is free: "<path>.<why>-<time>".
func asideName(path, why string, now time.Time) string {
	aside := path + "." + why + "-" + now.UTC().Format("20060102T150405")
	for { // two in a second
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			return aside
		}
		aside += "x"
	}
}

// syncDir has the names in dir on disk when it returns.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
