// Command gateway brings field devices to Azure IoT Hub: it polls Modbus devices as mapping.yaml says,
// keeps what it reads in a durable queue, and delivers it over one MQTT connection per identity.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK        = 0
	exitFailed    = 1 // what was asked for did not succeed: findings, a refused start, a method's failure
	exitUsage     = 2 // the command line is wrong
	exitUncertain = 3 // a write or a call was sent, and nobody knows whether it was carried out
	exitUnknown   = 4 // the hub does not know the device, module or enrolment that was named
)

// failure is an error that has already been shown, or that needs an exit code of its own.
type failure struct {
	code int
	err  error // nil: everything has been said
}

func (f *failure) Error() string {
	if f.err == nil {
		return "failed"
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

func main() {
	start := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second Ctrl-C ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(execute(ctx, os.Args[1:], streams{os.Stdout, os.Stderr, os.Stdin, start}))
}

// streams is where a command writes: out what was asked for, err what happens meanwhile.
type streams struct {
	out, err io.Writer
	in       io.Reader // a person's answers
	started  time.Time // of the process
}

// terminal tells whether a person reads w.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd()) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// interactive tells whether a person can answer on r.
func interactive(r io.Reader) bool {
	file, ok := r.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, io streams) int {
	root := &cobra.Command{
		Use:   "gateway",
		Short: "Bring Modbus and CoAP devices to Azure IoT Hub, without losing a reading",
		Long: `gateway reads field devices as a mapping.yaml says, keeps every reading that is worth reporting in
a queue that survives a crash, and delivers it to Azure IoT Hub over one connection per identity.
Direct methods from the cloud write registers, within the limits that the mapping sets.

New here? Watch the whole chain work on this machine, with no cloud and no hardware:

  gateway demo

Then write your own mapping, check it, and run it:

  gateway check mapping.yaml
  gateway run mapping.yaml`,
		Version:       version(),
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetArgs(negativeNumber(args))
	root.SetOut(io.out)
	root.SetErr(io.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &failure{exitUsage, fmt.Errorf("%w\nsee '%s --help'", err, c.CommandPath())}
	})
	root.AddCommand(demoCommand(io), checkCommand(io), planCommand(io), runCommand(io), reloadCommand(io), statusCommand(io), readCommand(io), writeCommand(io), queueCommand(io), hubCommand(io), hubsimCommand(io), devsimCommand(io), checkFileCommand(io))
	// A command of commands shows its help when it is called alone: that is no use of it.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", "{{if and .Runnable (not .HasAvailableSubCommands)}}", 1))
	err := group(root).ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var f *failure
	var refused *hubError
	if !errors.As(err, &f) {
		f = &failure{exitFailed, err}
		if errors.As(err, &refused) {
			f.code = refused.exitCode()
		}
	}
	if f.err != nil {
		fmt.Fprintf(problems(io.err), "gateway: %v\n", f.err)
	}
	return f.code
}

// version names this build: the module's version, or the commit that it was built from.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	built := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && (built == "" || built == "(devel)") {
			built = setting.Value
		}
	}
	return fmt.Sprintf("%s (%s %s/%s)", built, info.GoVersion, runtime.GOOS, runtime.GOARCH)
}

// words makes a wrong number of arguments a usage error that shows the right form.
func words(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if check(c, args) == nil {
			return nil
		}
		wrong := "needs an argument"
		if len(args) > 0 {
			wrong = "does not take " + count(len(args), "argument")
		}
		return &failure{exitUsage, fmt.Errorf("'%s' %s\nusage: %s", c.CommandPath(), wrong, c.UseLine())}
	}
}

// group makes c, whose commands do the work, show its help when it is called alone, and a word that is
// none of its commands a usage error.
func group(c *cobra.Command) *cobra.Command {
	c.SuggestionsMinimumDistance = 2
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		meant := ""
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			meant = " (did you mean " + strings.Join(near, " or ") + "?)"
		}
		return &failure{exitUsage, fmt.Errorf("'%s' has no command %q%s\nsee '%s --help'", c.CommandPath(), args[0], meant, c.CommandPath())}
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}
