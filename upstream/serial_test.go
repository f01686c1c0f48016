package upstream

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

func TestNobodyJoinsACrewThatDisbands(t *testing.T) {
	for range 300 {
		var c crew
		var began, ended atomic.Int32
		var others sync.WaitGroup
		for range 4 { // such as the library, which is not done yet, and who reports
			others.Go(func() {
				for range 20 {
					if c.Go(func() { ended.Add(1) }) {
						began.Add(1)
					}
				}
			})
		}
		c.disband()
		if c.Go(func() { t.Error("somebody joined") }) {
			t.Fatal("somebody joins after the end")
		}
		others.Wait()
		if began.Load() != ended.Load() {
			t.Fatalf("%d began, and %d had ended", began.Load(), ended.Load())
		}
	}
}

func TestTurnsKeepTheirOrderAndEndWithTheCrew(t *testing.T) {
	var c crew
	var s serial
	var got []int
	begun, release := make(chan struct{}), make(chan struct{})
	s.add(&c, 3, func() { close(begun); <-release })
	<-begun
	for i := 1; i <= 5; i++ {
		if s.add(&c, 3, func() { got = append(got, i) }) != (i <= 3) {
			t.Errorf("turn %d", i)
		}
	}
	close(release)
	c.disband()
	if !slices.Equal(got, []int{1, 2, 3}) || !s.idle() {
		t.Errorf("%v", got)
	}
	if s.add(&c, 3, func() { t.Error("a turn after the end") }) || !s.idle() {
		t.Error("a turn was taken after the end")
	}
}
