package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder is a task that notes when it stops.
func recorder(name string, mu *sync.Mutex, order *[]string, err error) task {
	return task{name, func(ctx context.Context) error {
		<-ctx.Done()
		mu.Lock()
		defer mu.Unlock()
		*order = append(*order, name)
		return err
	}}
}

func TestTasksStopInTheReverseOfTheirStart(t *testing.T) {
	var mu sync.Mutex
	var order []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := together(ctx, recorder("queue", &mu, &order, nil), recorder("upstream", &mu, &order, context.Canceled), recorder("adapters", &mu, &order, nil))
	if err != nil {
		t.Error(err)
	}
	if want := []string{"adapters", "upstream", "queue"}; !slices.Equal(order, want) {
		t.Errorf("stopped in the order %v, want %v", order, want)
	}
}

func TestATaskThatFailsEndsTheOthersAndIsNamed(t *testing.T) {
	var mu sync.Mutex
	var order []string
	broken := errors.New("address in use")
	err := together(t.Context(),
		recorder("queue", &mu, &order, errors.New("last commit failed")),
		task{"listener", func(context.Context) error { return broken }},
		recorder("adapters", &mu, &order, nil))
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "listener: address in use") || !strings.Contains(err.Error(), "queue: last commit failed") {
		t.Errorf("got %v", err)
	}
	if want := []string{"adapters", "queue"}; !slices.Equal(order, want) {
		t.Errorf("stopped %v, want %v", order, want)
	}
}

func TestATaskThatEndsWithoutAReasonIsReportedToo(t *testing.T) {
	err := together(t.Context(), task{"pool", func(context.Context) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "pool ended by itself") {
		t.Errorf("got %v", err)
	}
}
