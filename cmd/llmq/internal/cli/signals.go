package cli

import (
	"os"
	"syscall"
)

// endSignals end a run in good order. Where there is no SIGTERM it never comes.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}
