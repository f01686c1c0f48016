package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rs/zerolog"
)

func TestUnderSystemdEveryLineHasItsPriority(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "8:1")
	var out bytes.Buffer
	log := newLogger(&out, zerolog.InfoLevel)
	log.Debug().Msg("not shown")
	log.Info().Msg("an info")
	log.Warn().Str("link", "plc").Msg("a warning")
	log.Error().Msg("an error")
	fmt.Fprintf(problems(&out), "mapping.yaml:1:1: E001 wrong\n  source\n")
	want := "<6>an info\n<4>a warning link=plc\n<3>an error\n<3>mapping.yaml:1:1: E001 wrong\n<3>  source\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWithoutSystemdProblemsAreWrittenAsTheyAre(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	var out bytes.Buffer
	fmt.Fprint(problems(&out), "a\nb\n")
	if out.String() != "a\nb\n" {
		t.Errorf("got %q", out.String())
	}
}
