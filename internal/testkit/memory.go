package testkit

import (
	"bytes"
	"context"
	"maps"
	"sync"
)

// Notes keep values by key in memory, as a State of the product keeps them on disk. The zero Notes are empty, and safe
// for use by any goroutine.
type Notes struct {
	mu  sync.Mutex // guards the fields below
	all map[string]string
	err error
}

// Get returns the value of key, false if there is none.
func (n *Notes) Get(key string) ([]byte, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	value, ok := n.all[key]
	return []byte(value), ok
}

// Put keeps a copy of value, or returns the error of Fail.
func (n *Notes) Put(_ context.Context, key string, value []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return n.err
	}
	if n.all == nil {
		n.all = map[string]string{}
	}
	n.all[key] = string(value)
	return nil
}

// Delete forgets key, or returns the error of Fail.
func (n *Notes) Delete(_ context.Context, key string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err == nil {
		delete(n.all, key)
	}
	return n.err
}

// Fail makes Put and Delete fail with err and do nothing; nil ends that.
func (n *Notes) Fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

// All is a copy of what is kept.
func (n *Notes) All() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.all)
}

// Log keeps what is written to it, and may be read meanwhile. The zero Log is empty, and safe for use by any goroutine.
type Log struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

// Write keeps b.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
