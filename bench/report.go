package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// write leaves RESULTS.md and results.json in the bench directory.
func write(results []result, now time.Time) error {
	text, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join("bench", "results.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("bench", "RESULTS.md"), []byte(page(results, now)), 0o644)
}

func page(results []result, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Figures\n\nWritten by `make bench` on %s. %d CPUs, %s, %s, queue files on %s.\n\n", now.UTC().Format("2006-01-02"),
		runtime.NumCPU(), kernel(), runtime.Version(), fileSystem("."))
	fmt.Fprintf(&b, "Everything runs on this one machine: client, hub and field devices share its CPUs. Each figure and its limit are\ntaken in turns, %d times; the medians stand here. Read the ratio; the rest depends on the machine.\n\n", rounds)
	b.WriteString("| figure | value | limit | ratio | wanted |\n|---|--:|--:|--:|---|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %s %s | %s %s | **%.2f** | %s |\n", r.Name, readable(r.Value), r.Unit, readable(r.Limit), r.Unit, r.Ratio, r.figure.target)
	}
	b.WriteString("\n## What was measured, and beside what\n\n")
	for _, r := range results {
		fmt.Fprintf(&b, "- **%s**: %s. Limit: %s.", r.Name, r.figure.what, r.figure.limitIs)
		if r.P50 > 0 {
			fmt.Fprintf(&b, " Median %.0f %s, of the limit %.0f.", r.P50, r.Unit, r.LimitP50)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// kernel is the name and release that uname gives.
func kernel() string {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return "an unknown kernel"
	}
	return text(u.Sysname[:]) + " " + text(u.Release[:])
}

func text(field []int8) string {
	var b strings.Builder
	for _, c := range field {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// fileSystem is the type of the file system that path is on.
func fileSystem(path string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return "an unknown file system"
	}
	switch s.Type {
	case 0xef53:
		return "ext4"
	case 0x58465342:
		return "XFS"
	case 0x9123683e:
		return "Btrfs"
	case 0x01021994:
		return "tmpfs"
	case 0x794c7630:
		return "overlayfs"
	}
	return fmt.Sprintf("a file system of type %#x", s.Type)
}
