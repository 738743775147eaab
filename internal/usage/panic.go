package usage

import (
	"fmt"
	"runtime/debug"
)

// panicked is a panic as an error. It carries no usher.Code: a panic is a fault
// of the server.
type panicked struct {
	value any
	stack []byte
}

// Error returns the value of the panic and the stack.
func (p *panicked) Error() string { return fmt.Sprintf("usage: panic: %v\n%s", p.value, p.stack) }

// guarded runs fn and returns a panic of it as an error. The writer is one
// goroutine for all callers: without this, one caller's panic would end the
// process and lose the others' use.
func guarded(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return fn()
}

// endPanicked ends the request that a batch was deciding when it panicked. Its
// customers are read again, in case what memory holds of them is the cause.
func (u *Usage) endPanicked(b *batchRun, p *panicked) {
	b.forget()
	if t := b.deciding; t != nil {
		t.err = fmt.Errorf("usage: panic while a take was decided: %v", p.value)
		u.cfg.Log.Error("a take panicked while it was decided; nothing of it is kept", "env", t.env, "customer", t.customer, "feature", t.feature,
			"call", t.call, "panic", fmt.Sprint(p.value), "stack", string(p.stack))
		return
	}
	e := b.recording
	e.err = fmt.Errorf("usage: panic while events were recorded: %v", p.value)
	u.cfg.Log.Error("a request of events panicked while it was recorded; nothing of it is kept", "env", e.env, "events", len(e.events),
		"panic", fmt.Sprint(p.value), "stack", string(p.stack))
}
