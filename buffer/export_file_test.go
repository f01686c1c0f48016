package buffer

import (
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
