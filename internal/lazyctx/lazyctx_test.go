package lazyctx

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
)

type key struct{}

func newContext(parent context.Context) *Context[int] {
	c := new(Context[int])
	c.Parent = context.WithValue(parent, key{}, "value")
	return c
}

var errWhy = errors.New("why")

func TestItCostsNothingUntilItIsAsked(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(Context[[100]int]{}), uintptr(40))
	c := newContext(t.Context())
	assert.Zero(t, testing.AllocsPerRun(10, func() {
		_, _ = c.Deadline()
		_ = c.Err()
		_ = c.Value(key{})
		c.Finish()
		c.finished = false
	}))
	assert.Nil(t, c.HasExtra())
	*c.Extra() = 7
	assert.Equal(t, 7, *c.HasExtra())
}

func TestItEndsOnceAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		end        func(c *Context[int])
		err, cause error
		was        End
	}{
		"finished":  {func(c *Context[int]) { c.Finish() }, context.Canceled, context.Canceled, Canceled},
		"canceled":  {func(c *Context[int]) { c.Cancel(context.Canceled, errWhy) }, context.Canceled, errWhy, Canceled},
		"timed out": {func(c *Context[int]) { c.TimeOut() }, context.DeadlineExceeded, context.DeadlineExceeded, TimedOut},
	} {
		for _, asked := range []bool{false, true} { // before it ends
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx := newContext(t.Context())
					var derived context.Context
					called := 0
					if asked {
						assert.NoError(t, ctx.Err())
						assert.NoError(t, context.Cause(ctx))
						select {
						case <-ctx.Done():
							assert.Fail(t, "ended")
						default:
						}
						var cancel func()
						derived, cancel = context.WithCancel(ctx)
						defer cancel()
						context.AfterFunc(ctx, func() { called++ })
						stop := context.AfterFunc(ctx, func() { called += 100 })
						assert.True(t, stop())
						assert.False(t, stop())
					}
					c.end(ctx)
					ctx.Cancel(errWhy, context.Canceled)
					<-ctx.Done()
					synctest.Wait()
					assert.Equal(t, c.err, ctx.Err())
					assert.Equal(t, c.cause, context.Cause(ctx))
					if asked {
						<-derived.Done()
						assert.Equal(t, c.cause, context.Cause(derived))
						assert.Equal(t, 1, called)
					}
					context.AfterFunc(ctx, func() { called = -1 })
					synctest.Wait()
					assert.Equal(t, -1, called, "it has ended already")
					if name != "finished" {
						assert.Equal(t, c.was, ctx.Finish())
					}
				})
			})
		}
	}
}

func TestFinishTellsThatNothingEndedItBefore(t *testing.T) {
	c := newContext(t.Context())
	done := c.Done()
	assert.Equal(t, Finished, c.Finish())
	<-done
	c.Mu.Lock()
	defer c.Mu.Unlock()
	assert.True(t, c.HasFinished())
}

func TestItEndsApartFromItsParent(t *testing.T) {
	parent, cancel := context.WithDeadline(t.Context(), time.Now().Add(time.Hour))
	c := newContext(parent)
	soon := time.Now().Add(time.Minute)
	at, ok := c.Deadline()
	assert.True(t, ok && at.After(soon), "the parent's")
	c.SetDeadline(soon)
	at, ok = c.Deadline()
	assert.True(t, ok && at.Equal(soon), "the sooner one")
	c.SetDeadline(time.Time{})
	c.Detached = true
	_, ok = c.Deadline()
	assert.False(t, ok)
	before := runtime.NumGoroutine()
	derived, stop := context.WithCancel(c)
	defer stop()
	assert.LessOrEqual(t, runtime.NumGoroutine(), before, "a derived context needs no goroutine")
	cancel()
	assert.NoError(t, c.Err())
	assert.NoError(t, derived.Err())
	assert.Equal(t, "value", derived.Value(key{}))
}
