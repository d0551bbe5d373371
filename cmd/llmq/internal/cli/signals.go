package cli

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// endSignals end a run in good order. Where there is no SIGTERM it never comes.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// interrupts is what ends a run: the first value lets it finish what is in flight, the
// second ends it at once.
type interrupts struct {
	C     chan os.Signal
	asked atomic.Bool
	stop  func()
}

// newInterrupts begins to listen. A terminal that is closed (SIGHUP) and a reader that has
// left (SIGPIPE) ask once at most, and never for the end at once: they come several times,
// and beside a SIGTERM, and nobody means to lose anything by them.
func newInterrupts() *interrupts {
	in := &interrupts{C: make(chan os.Signal, 2)}
	signals, hangup, ended := make(chan os.Signal, 2), make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, endSignals...)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(hangup, syscall.SIGHUP)
	}
	// Without this a write to a pipe without a reader would end the process.
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		for {
			select {
			case s := <-signals:
				in.asked.Store(true)
				in.send(s)
			case s := <-hangup:
				in.once(s)
			case <-ended:
				return
			}
		}
	}()
	in.stop = func() {
		signal.Stop(signals)
		signal.Stop(hangup)
		close(ended)
	}
	return in
}

func (in *interrupts) send(s os.Signal) {
	select {
	case in.C <- s:
	default: // two are waiting already
	}
}

func (in *interrupts) once(s os.Signal) {
	if in.asked.CompareAndSwap(false, true) {
		in.send(s)
	}
}

// watch is a writer that tells when the reader of a pipe has left.
func (in *interrupts) watch(w io.Writer) io.Writer { return watched{w, in} }

type watched struct {
	w  io.Writer
	in *interrupts
}

func (w watched) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		w.in.once(syscall.SIGPIPE)
	}
	return n, err
}
