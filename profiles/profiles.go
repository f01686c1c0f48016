// Package profiles holds the device types that ship with the product, each as the map that would stand under
// profiles in a mapping. It promises nothing about their content but that package mapping reads each of them
// without a finding; whether one was compared with a device stands in its key verified.
package profiles

import (
	"embed"
	"strings"
)

//go:embed *.yaml
var files embed.FS

const extension = ".yaml"

// Get is the profile called name as YAML; false if there is none.
func Get(name string) (text []byte, ok bool) {
	text, err := files.ReadFile(name + extension)
	return text, err == nil
}

// Names lists the profiles in alphabetical order.
func Names() (names []string) {
	entries, err := files.ReadDir(".")
	if err != nil { // it is part of the program
		return nil
	}
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), extension))
	}
	return names
}
