package buffer

import (
	"bytes"
	"context"
	"time"
)

// What the tests outside of the package also use.
var (
	LockDirectory = lockDirectory
	LimitProcess  = limitProcess
)

// CheckInChild is checkInChild without its second answer.
func CheckInChild(ctx context.Context, limit time.Duration, argv ...string) (Report, error) {
	report, _, err := checkInChild(ctx, limit, argv)
	return report, err
}

// ReachablePages tells which pages of a sound file are in its tree.
func ReachablePages(data []byte) map[int]bool {
	p, err := openPages(bytes.NewReader(data), int64(len(data)))
	if err != nil || p.damage != nil {
		return nil
	}
	w := p.walker(context.Background(), p.metas[0].high, func(item) error { return nil })
	if w.subtree(p.metas[0].root, "", keyRange{}, 0) != nil {
		return nil
	}
	seen := map[int]bool{}
	for id := range p.metas[0].high {
		seen[int(id)] = w.seen[id/8]&(1<<(id%8)) != 0
	}
	return seen
}

// SealValue is sealValue.
var SealValue = sealValue

// LockFile is lockFile.
var LockFile = lockFile
