package main

import (
	"context"
	"io"
	"testing"

	"iothub-gateway/internal/control"
)

// moving is a queue with one lane, of which each look is the next of looks.
func moving(looks ...[]control.QueueEntry) queueAccess {
	return queueAccess{
		page: func(context.Context) (control.QueuePage, error) {
			return control.QueuePage{Lanes: []control.LaneStatus{{Identity: "boiler", Entries: 1}}}, nil
		},
		entries: func(_ context.Context, query entryQuery, each func(control.QueueEntry) error) error {
			look := looks[0]
			looks = looks[1:]
			if query.limit > 0 && len(look) > 0 {
				look = look[:query.limit]
			}
			for _, e := range look {
				if err := each(e); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func TestVerifyTakesNoMovementOfARunningQueueForDamage(t *testing.T) {
	entry := func(first, last uint64, gap bool) control.QueueEntry {
		return control.QueueEntry{Identity: "boiler", First: first, Last: last, Gap: gap}
	}
	for name, c := range map[string]struct {
		looks   [][]control.QueueEntry
		trouble string
	}{
		"the hub took what follows":           {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(9, 9, false)}, {entry(9, 9, false)}}},
		"and this one too":                    {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(9, 9, false)}, {entry(12, 12, false)}}},
		"and all that there was":              {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(9, 9, false)}, {}}},
		"a gap grew over what was read":       {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(2, 5, true), entry(2, 8, true)}}},
		"a number is missing":                 {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(9, 9, false)}, {entry(1, 1, false)}}, trouble: "boiler: number 9 follows on 1"},
		"a number comes again":                {looks: [][]control.QueueEntry{{entry(1, 1, false), entry(1, 1, false)}, {entry(1, 1, false)}}, trouble: "boiler: number 1 follows on 1"},
		"an older number comes in the middle": {looks: [][]control.QueueEntry{{entry(4, 4, false), entry(3, 3, false)}, {entry(1, 1, false)}}, trouble: "boiler: number 3 follows on 4"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := verifyMessages(t.Context(), streams{out: io.Discard, err: io.Discard}, moving(c.looks...))
			if err != nil || len(found) != 1 || found[0].Trouble != c.trouble {
				t.Errorf("%+v, %v: want the trouble %q", found, err, c.trouble)
			}
		})
	}
}
