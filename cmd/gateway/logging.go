package main

import (
	"bytes"
	"io"
	"os"
	"time"

	"github.com/rs/zerolog"
)

// newLogger writes for whoever reads w: one line with a time for people, one with a priority and no
// time under systemd, whose journal adds its own.
func newLogger(w io.Writer, level zerolog.Level) zerolog.Logger {
	if os.Getenv("JOURNAL_STREAM") != "" {
		return zerolog.New(journal{w}).Level(level)
	}
	console := zerolog.ConsoleWriter{Out: w, NoColor: !terminal(w), TimeFormat: time.TimeOnly}
	return zerolog.New(console).Level(level).With().Timestamp().Logger()
}

// journal prefixes each line with the syslog priority that journald takes off again (sd-daemon(3)).
type journal struct{ w io.Writer }

func (j journal) Write(line []byte) (int, error) { return j.WriteLevel(zerolog.InfoLevel, line) }

// WriteLevel implements zerolog.LevelWriter.
func (j journal) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	console := zerolog.ConsoleWriter{Out: prefixed{j.w, priority(level)}, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName, zerolog.LevelFieldName}}
	return console.Write(line)
}

func priority(level zerolog.Level) string {
	switch level {
	case zerolog.TraceLevel, zerolog.DebugLevel:
		return "<7>"
	case zerolog.WarnLevel:
		return "<4>"
	case zerolog.ErrorLevel:
		return "<3>"
	case zerolog.FatalLevel, zerolog.PanicLevel:
		return "<2>"
	default:
		return "<6>"
	}
}

// prefixed writes each line in one piece behind its priority.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(line []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// problems is where errors go that are no log lines: findings, and why a command failed. Under systemd
// each line has the priority of an error.
func problems(w io.Writer) io.Writer {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return w
	}
	return eachLine{w, priority(zerolog.ErrorLevel)}
}

// eachLine writes every line of what is written to it behind a prefix.
type eachLine struct {
	w      io.Writer
	prefix string
}

func (e eachLine) Write(text []byte) (int, error) {
	for line := range bytes.Lines(text) {
		if _, err := prefixed(e).Write(line); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}
