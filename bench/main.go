// Command bench measures what the product promises beside the limit of the machine it runs on: the
// bare library doing the same with nothing behind it, or a plain file with fdatasync. Both are taken
// in the same run, in turns, and the ratio is what counts. It writes RESULTS.md for people and
// results.json for programs.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the figures whose names begin with one of the arguments, or all of them.
func run(ctx context.Context, only []string) error {
	if role := os.Getenv(childRole); role != "" {
		return runChild(ctx, role, os.Stdin, os.Stdout)
	}
	defer os.RemoveAll(deepDir)
	var results []result
	for _, f := range figures() {
		if len(only) > 0 && !slices.ContainsFunc(only, func(prefix string) bool { return strings.HasPrefix(f.name, prefix) }) {
			continue
		}
		r, err := f.take(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		fmt.Println(r)
		results = append(results, r)
	}
	if len(only) > 0 {
		return nil // a part of the figures is for looking, not for publishing
	}
	return write(results, time.Now())
}
