package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"iothub-gateway/buffer"
)

// queueDir is where the queue stands in the state directory.
func (o *queueOptions) queueDir() string { return filepath.Join(o.state, queueName) }

// openQueue opens the files of a queue that no gateway has.
func openQueue(o *queueOptions) (*buffer.Queue, error) {
	if _, err := os.Stat(o.queueDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no queue in %s; name the gateway's --state-dir", o.state)
	}
	q, err := buffer.Open(buffer.Config{Dir: o.queueDir(), Inspect: true, Check: queueFileCheck()})
	if errors.Is(err, buffer.ErrInUse) {
		return nil, fmt.Errorf("%w; name the --runtime-dir of the gateway that runs on it, or stop that", err)
	}
	if err != nil {
		return nil, err
	}
	if health := q.Health(); health.State == queueUnavailable {
		return nil, errors.Join(errors.New(health.Reason), q.Close())
	}
	return q, nil
}

// daemonOrFiles is the access to the running gateway's queue; without one the queue is opened and returned.
func daemonOrFiles(ctx context.Context, o *queueOptions) (queueAccess, *buffer.Queue, error) {
	asked, running, err := askDaemon(ctx, o)
	if running || err != nil {
		return asked, nil, err
	}
	q, err := openQueue(o)
	if err != nil {
		return queueAccess{}, nil, err
	}
	return accessTo(q, o.queueDir()), q, nil
}

// readQueue is the running gateway's queue, or else the one on disk, for looking.
func readQueue(ctx context.Context, o *queueOptions) (queueAccess, error) {
	access, q, err := daemonOrFiles(ctx, o)
	if q == nil {
		return access, err
	}
	access.close = func() error { return errors.Join(q.Close(), leaveToOwner(o.state)) }
	return access, nil
}

// writeQueue is the running gateway's queue, or else the one on disk, for changing.
func writeQueue(ctx context.Context, o *queueOptions) (queueAccess, error) {
	access, q, err := daemonOrFiles(ctx, o)
	if q == nil {
		return access, err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- q.Run(work) }()
	access.close = func() error {
		stop()
		return errors.Join(<-ended, q.Close(), leaveToOwner(o.state))
	}
	return access, nil
}

// leaveToOwner gives what root has made in a directory to the directory's owner: the gateway itself
// does not run as root.
func leaveToOwner(dir string) error {
	if os.Getuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	root, err := os.OpenRoot(dir) // a link in it must not lead elsewhere
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}
