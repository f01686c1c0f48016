package buffer

import "context"

// Peek is Next for those who only look: what it returns does not count as in flight, and it does not
// wait: no entries means that there are none. What it returned may be dropped or become part of a gap or
// a pack. Packs that were handed out are returned as they are.
func (l *Lane) Peek(ctx context.Context, after uint64, max int) ([]Entry, error) {
	entries, err := l.peek(ctx, after, max)
	lay := l.layout(after)
	for {
		messages, rest := lay.messages(entries, max)
		if len(messages) > 0 {
			return messages, nil
		}
		if err != nil || len(rest) == 0 || rest[0].Seq > lay.last() {
			return rest, err
		}
		var more []Entry
		if more, err = l.peek(ctx, rest[len(rest)-1].Seq, maxRead); len(more) == 0 {
			return nil, err
		}
		entries = append(rest, more...)
	}
}

// peek is Peek of what was put, packed or not.
func (l *Lane) peek(ctx context.Context, after uint64, max int) ([]Entry, error) {
	for {
		if l.q.isClosed() {
			return nil, l.q.errClosed()
		}
		l.mu.Lock()
		elements := l.chain.appendTo(nil, l.from(after), clampRead(max))
		l.mu.Unlock()
		if len(elements) == 0 {
			return nil, ctx.Err()
		}
		entries, _, err := l.read(ctx, elements, l.q.clocks.Load())
		if err != nil || len(entries) > 0 {
			return entries, err
		}
	}
}
