package main

import (
	"context"
	"errors"
	"fmt"
)

// task is a part of the program that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// together runs tasks until ctx ends or one of them returns, and then stops them one at a time in the
// reverse of their order: so the last reading still reaches the bridge, whose message still reaches
// the queue. The error is that of the task that ended by itself, joined with those met while stopping.
func together(ctx context.Context, tasks ...task) error {
	type outcome struct {
		index int
		err   error
	}
	ended := make(chan outcome, len(tasks))
	cancels := make([]context.CancelFunc, len(tasks))
	done := make([]bool, len(tasks))
	for i, t := range tasks {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancels[i] = cancel
		go func() { ended <- outcome{i, t.run(own)} }()
	}
	var errs []error
	take := func(o outcome) {
		done[o.index] = true
		if o.err != nil && !errors.Is(o.err, context.Canceled) {
			errs = append(errs, fmt.Errorf("%s: %w", tasks[o.index].name, o.err))
		}
	}
	if len(tasks) > 0 {
		select {
		case <-ctx.Done():
		case o := <-ended:
			take(o)
			if o.err == nil {
				errs = append(errs, fmt.Errorf("%s ended by itself", tasks[o.index].name))
			}
		}
	}
	for i := len(tasks) - 1; i >= 0; i-- {
		cancels[i]()
		for !done[i] {
			take(<-ended)
		}
	}
	return errors.Join(errs...)
}
