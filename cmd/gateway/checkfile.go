package main

import (
	"context"

	"github.com/spf13/cobra"

	"iothub-gateway/buffer"
)

const checkFileWord = "check-queue-file"

// queueFileCheck is the queue's Config.Check: this program once more, as a process of its own with
// limits, because a damaged file can end the process that reads it. /proc/self/exe is this program
// even after its file was replaced by a newer one.
func queueFileCheck() func(context.Context, string) (buffer.Report, error) {
	return buffer.ChildCheck("/proc/self/exe", checkFileWord)
}

// checkFileCommand is that process.
func checkFileCommand(io streams) *cobra.Command {
	return &cobra.Command{
		Use: checkFileWord + " FILE", Hidden: true, Args: words(cobra.ExactArgs(1)),
		Short: "Check one file of a queue that nobody has open, within limits of time and memory",
		RunE:  func(_ *cobra.Command, args []string) error { return buffer.CheckMain(args[0], io.out) },
	}
}
