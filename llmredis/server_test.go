package llmredis

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// shared gives the address of a Redis that tests share with others: LLMQUEUE_TEST_REDIS, or
// the usual local port. Tests touch nothing there but keys of a prefix of their own.
func shared(t testing.TB) *redis.Client {
	t.Helper()
	address := os.Getenv("LLMQUEUE_TEST_REDIS")
	if address == "" {
		address = "127.0.0.1:6379"
	}
	client := redis.NewClient(&redis.Options{Addr: address})
	t.Cleanup(func() { _ = client.Close() })
	if err := client.Ping(t.Context()).Err(); err != nil {
		_ = client.Close()
		return private(t).client(t)
	}
	return client
}

// server is a Redis of a test's own.
type server struct {
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

// private starts a Redis that keeps nothing on disk unless args say so, on a free port.
func private(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if _, err := exec.LookPath("valkey-server"); err != nil {
			t.Skip("there is no redis-server and no valkey-server in PATH; install one to run this test")
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{port: l.Addr().(*net.TCPAddr).Port, dir: t.TempDir(), args: args}
	require.NoError(t, l.Close())
	s.start(t)
	t.Cleanup(func() { s.kill() })
	return s
}

func (s *server) address() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

func (s *server) start(t testing.TB) {
	t.Helper()
	name := "redis-server"
	if _, err := exec.LookPath(name); err != nil {
		name = "valkey-server"
	}
	args := append([]string{"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--save", "", "--dir", s.dir,
		"--logfile", filepath.Join(s.dir, "log"), "--unixsocket", ""}, s.args...)
	s.cmd = exec.Command(name, args...)
	require.NoError(t, s.cmd.Start())
	client := redis.NewClient(&redis.Options{Addr: s.address(), MaxRetries: -1})
	defer func() { _ = client.Close() }()
	require.Eventually(t, func() bool {
		err := client.Ping(context.Background()).Err()
		return err == nil || strings.HasPrefix(err.Error(), "NOAUTH")
	}, 20*time.Second, 5*time.Millisecond,
		"redis-server does not start, see %s", filepath.Join(s.dir, "log"))
}

// kill ends it as a crash does.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) client(t testing.TB) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.address()})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// fresh is a prefix that nothing else uses.
func fresh(t testing.TB) string {
	return fmt.Sprintf("llmqueue-test-%s-%d-%d", t.Name(), os.Getpid(), time.Now().UnixNano())
}

// stop ends it properly.
func (s *server) stop(t testing.TB) {
	t.Helper()
	require.NoError(t, s.cmd.Process.Signal(os.Interrupt))
	_ = s.cmd.Wait()
	s.cmd = nil
}
