package llmriver_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cluster is a PostgreSQL server of the test's own, to be stopped at will: the machine's is
// not touched.
type cluster struct {
	pgctl, dir string
	as         *syscall.Credential // nil: as ourselves
	options    string
	url        string
}

// newCluster makes and starts one, or skips the test where that cannot be done. Servers
// refuse to run as root, so that root needs a user postgres.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(bins)
	bin := ""
	for _, b := range bins {
		if _, err := os.Stat(filepath.Join(b, "initdb")); err == nil {
			bin = b
			break
		}
	}
	if bin == "" {
		if path, err := exec.LookPath("initdb"); err == nil {
			bin = filepath.Dir(path)
		} else {
			t.Skip("no initdb in the PATH or below /usr/lib/postgresql: a server of the test's own cannot be made")
		}
	}
	c := &cluster{pgctl: filepath.Join(bin, "pg_ctl")}
	dir, err := os.MkdirTemp("", "llmriver")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root, and no user postgres: a server of the test's own cannot be run")
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		require.NoError(t, err)
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		require.NoError(t, err)
		c.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	}
	c.dir = filepath.Join(dir, "data")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	if err := c.run(filepath.Join(bin, "initdb"), "-D", c.dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		t.Skipf("initdb does not run here: %v", err)
	}
	c.options = fmt.Sprintf("-c port=%d -c listen_addresses=127.0.0.1 -c unix_socket_directories='%s'", port, dir)
	c.url = fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?connect_timeout=2", port)
	c.start(t)
	t.Cleanup(func() { _ = c.run(c.pgctl, "-D", c.dir, "-m", "immediate", "stop") })
	return c
}

func (c *cluster) run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (c *cluster) start(t testing.TB) {
	t.Helper()
	require.NoError(t, c.run(c.pgctl, "-D", c.dir, "-w", "-t", "60", "-o", c.options, "-l", filepath.Join(filepath.Dir(c.dir), "log"), "start"))
}

// stop ends the server as a crash would.
func (c *cluster) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, c.run(c.pgctl, "-D", c.dir, "-w", "-m", "immediate", "stop"))
}

// PostgreSQL crashes and comes back while processes work, and one of them is killed
// meanwhile: nothing is lost.
func TestDatabaseRestarts(t *testing.T) {
	c := newCluster(t)
	counts := []int{2}
	if os.Getenv(full) != "" {
		counts = []int{2, 4}
	}
	for _, workers := range counts {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			p := schemaOn(t, c.url)
			jobs := sharedJobs()
			shared(t, p, jobs, workers, func(ps []*process, o orders, left func() int) []*process {
				eventually(t, "the processes do not start", func() bool { return read(t, o.Log).up == workers })
				eventually(t, "the processes get nowhere", func() bool { return left() < jobs*2/3 })
				c.stop(t)
				ps[0].kill()
				c.start(t)
				eventually(t, "the processes do not go on after the restart", func() bool { return left() < jobs/3 })
				c.stop(t)
				time.Sleep(2 * childLease) // an outage longer than the lease: nobody may take the living for dead
				c.start(t)
				return ps[1:]
			})
		})
	}
}
