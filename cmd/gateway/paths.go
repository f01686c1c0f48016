package main

import (
	"os"
	"path/filepath"
	"strconv"
)

// defaultMapping is the file a command reads if none is named.
const defaultMapping = "mapping.yaml"

// stateDir is where the queue lives if no flag says otherwise: what systemd gives the service, else
// the system's place for root and the user's for a user.
func stateDir() string {
	if dir := os.Getenv("STATE_DIRECTORY"); dir != "" {
		return dir
	}
	if os.Getuid() == 0 {
		return "/var/lib/iothub-gateway"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "iothub-gateway")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), "iothub-gateway-"+strconv.Itoa(os.Getuid()))
	}
	return filepath.Join(home, ".local", "state", "iothub-gateway")
}

// runtimeDir is where the control socket lives if no flag says otherwise.
func runtimeDir() string {
	if dir := os.Getenv("RUNTIME_DIRECTORY"); dir != "" {
		return dir
	}
	if os.Getuid() == 0 {
		return "/run/iothub-gateway"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "iothub-gateway")
	}
	return filepath.Join(os.TempDir(), "iothub-gateway-run-"+strconv.Itoa(os.Getuid()))
}

// simulatorNote is the file in which a running simulator says how to reach it, so that `gateway hub`
// in a second terminal needs no flags.
func simulatorNote() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = filepath.Join(os.TempDir(), "iothub-gateway-"+strconv.Itoa(os.Getuid()))
	}
	return filepath.Join(dir, "iothub-gateway", "hubsim.json")
}
