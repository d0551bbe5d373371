package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/gateway"
)

// serveFlags are those of serve. Those that are given win over the file's.
type serveFlags struct {
	config, listen                   string
	dialect, baseURL, keyEnv, auth   string
	amounts                          amounts
	concurrency                      int64
	period, keepAlive, maxWait       time.Duration
	keysEnv, keysFile, redis         string
	controls, verbose, quiet, asJSON bool
}

func (f *serveFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.config, "config", "", "YAML or JSON `file` with everything; SIGHUP reads it again")
	fs.StringVar(&f.listen, "listen", "", "`address` to listen on (default 127.0.0.1:4000)")
	fs.StringVar(&f.dialect, "dialect", "", "without --config, the one provider's: openai, anthropic, gemini or ollama (default openai)")
	fs.StringVar(&f.baseURL, "base-url", "", "its `URL`, as its SDKs take it (default the dialect's own)")
	fs.StringVar(&f.keyEnv, "key-env", "", "`name` of the environment variable with its key (default by the host; without a key the client's own is passed on)")
	fs.StringVar(&f.auth, "auth", "", "how its key is sent: bearer, api-key, x-api-key or x-goog-api-key (default by the host)")
	f.amounts = amounts{}
	for _, k := range limitKinds {
		f.amounts[string(k.kind)] = fs.Int64(string(k.kind), 0, k.usage+", of each model (default learned)")
	}
	fs.Int64Var(&f.concurrency, "concurrency", 0, "calls in flight at once, of each model (default 256)")
	fs.DurationVar(&f.period, "period", 0, "how long the minute of the limits is, for trials with llmq simulate --period")
	fs.DurationVar(&f.maxWait, "max-wait", 0, "how long a call may wait (default no bound but the client's)")
	fs.DurationVar(&f.keepAlive, "keep-alive", 0, "how often a stream that waits gets a comment, so that nobody takes it for dead (default never)")
	fs.StringVar(&f.keysEnv, "client-keys-env", "", "`name` of the environment variable with the keys that clients need: TENANT KEY, … (needed beyond loopback)")
	fs.StringVar(&f.keysFile, "client-keys-file", "", "`file` with them, a line each")
	fs.StringVar(&f.redis, "redis", "", "`URL` of a Redis that holds given limits for several gateways; its password is read from LLMQ_REDIS_PASSWORD")
	fs.BoolVar(&f.controls, "dashboard-controls", false, "buttons on the page that pause models and cancel calls")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "log each call: ids, models and times, never bodies or keys")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "log errors alone")
	fs.BoolVar(&f.asJSON, "log-json", false, "log as JSON lines")
}

func newServe() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a gateway: calls in any language wait in their model's queue",
		Long: `Serve is a proxy in front of providers. A client changes its base URL and nothing else: what
the limits do not let through waits, what fails for now is tried again, and the provider
refuses nothing. The paths of OpenAI, Anthropic, Gemini and Ollama go to the upstream of their
dialect as they are: nothing is translated.

Without --config and flags it stands in front of all four, with the keys in OPENAI_API_KEY,
ANTHROPIC_API_KEY and GEMINI_API_KEY, or the clients' own, and learns the limits.

It listens on loopback. Beyond that it demands client keys. SIGHUP reads the file again, SIGTERM
finishes what waits and runs.`,
		Example: `  llmq serve
  OPENAI_BASE_URL=http://127.0.0.1:4000/v1 your-program

  llmq serve --base-url https://api.groq.com/openai/v1 --rpm 30 --tpm 12000
  llmq serve --config llmq.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.register(cmd.Flags())
	return cmd
}

// read makes a configuration of the file and the flags.
func (f *serveFlags) read(fs *pflag.FlagSet) (c *gateway.Config, err error) {
	if f.config != "" {
		for _, name := range []string{"dialect", "base-url", "key-env", "auth", "rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "concurrency", "period", "max-wait"} {
			if fs.Changed(name) {
				return nil, fmt.Errorf("--%s is for one provider without --config: set it in %s", name, f.config)
			}
		}
		return gateway.ReadConfig(f.config, f.set)
	}
	c = &gateway.Config{}
	if f.dialect != "" || f.baseURL != "" {
		c.Upstreams = []gateway.Upstream{f.upstream()}
	} else if f.keyEnv != "" || f.auth != "" {
		return nil, errors.New("--key-env and --auth are of one provider: name it with --dialect or --base-url")
	}
	c.Default.Limits = gateway.Limits{
		RPM: *f.amounts["rpm"], TPM: *f.amounts["tpm"], ITPM: *f.amounts["itpm"], OTPM: *f.amounts["otpm"],
		RPD: *f.amounts["rpd"], TPD: *f.amounts["tpd"], Concurrent: f.concurrency, Period: f.period,
	}
	c.Default.MaxWait = f.maxWait
	f.set(c)
	return c, c.Complete()
}

// set changes a configuration as the flags have it.
func (f *serveFlags) set(c *gateway.Config) {
	if f.keysEnv != "" || f.keysFile != "" {
		c.Clients.KeysEnv, c.Clients.KeysFile = f.keysEnv, f.keysFile
	}
	c.Listen, c.Redis, c.KeepAlive = cmp.Or(f.listen, c.Listen), cmp.Or(f.redis, c.Redis), cmp.Or(f.keepAlive, c.KeepAlive)
}

// upstream is the one provider of the flags.
func (f *serveFlags) upstream() gateway.Upstream {
	u := gateway.Upstream{Name: "upstream", Dialect: cmp.Or(f.dialect, "openai"), BaseURL: f.baseURL, KeyEnv: f.keyEnv, Auth: f.auth}
	if f.baseURL == "" {
		u.KeyEnv = cmp.Or(u.KeyEnv, gateway.KeyEnv(u.Dialect))
		return u
	}
	p := providerAt(f.baseURL)
	if u.KeyEnv == "" && os.Getenv(p.keyEnv) != "" {
		u.KeyEnv = p.keyEnv
	}
	if p.suffix != "" {
		u.Auth, u.Accounting = cmp.Or(u.Auth, p.auth), p.accounting
	}
	return u
}

func (f *serveFlags) run(cmd *cobra.Command) error {
	c, err := f.read(cmd.Flags())
	if err != nil {
		return usage("%w", err)
	}
	level := slog.LevelInfo
	if f.verbose {
		level = slog.LevelDebug
	} else if f.quiet {
		level = slog.LevelError
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(cmd.ErrOrStderr(), options)
	if f.asJSON {
		handler = slog.NewJSONHandler(cmd.ErrOrStderr(), options)
	}
	log := slog.New(handler)
	g, err := gateway.New(c, gateway.Options{Logger: log, Controls: f.controls, RedisPassword: os.Getenv("LLMQ_REDIS_PASSWORD")})
	if err != nil {
		return usage("%w", err)
	}
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return usage("%w", errors.Join(fmt.Errorf("--listen: %w", err), g.Close(context.Background())))
	}
	ctx, stop := signal.NotifyContext(orBackground(cmd.Context()), endSignals...)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	again, ended := make(chan os.Signal, 1), make(chan struct{})
	go func() {
		for {
			select {
			case <-hangup:
				f.reload(cmd.Flags(), g, log)
			case <-ctx.Done():
				signal.Notify(again, endSignals...)
				<-again
				close(ended)
				return
			}
		}
	}()
	fmt.Fprintf(cmd.OutOrStdout(), "Gateway at http://%s\n", ln.Addr())
	for _, line := range gateway.Environment(c, ln.Addr().String()) {
		fmt.Fprintln(cmd.OutOrStdout(), " ", line)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "  http://%s/debug/llmqueue/ is the page, /metrics for Prometheus\n", ln.Addr())
	if err := g.Serve(ctx, ln, ended); err != nil {
		return &exitError{exitInterrupted, err}
	}
	return nil
}

// reload reads the file again. What is wrong with it changes nothing.
func (f *serveFlags) reload(fs *pflag.FlagSet, g *gateway.Gateway, log *slog.Logger) {
	if f.config == "" {
		log.Warn("SIGHUP reads the file of --config again, and there is none")
		return
	}
	c, err := f.read(fs)
	if err != nil {
		log.Error("not reloaded, all stays as it was", "error", err)
		return
	}
	later, err := g.Reload(c)
	if err != nil {
		log.Error("not reloaded as a whole", "error", err)
	}
	for _, what := range later {
		log.Warn("changes with the next start", "what", what)
	}
	if err == nil {
		log.Info("reloaded", "file", f.config)
	}
}
