package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/prices"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/progress"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
)

// runFlags are the flags of run and retry.
type runFlags struct {
	output, config                       string
	baseURL, keyEnv, keyFile, auth       string
	headers                              []string
	caFile                               string
	timeout                              time.Duration
	limits, accounting, dayResets        string
	amounts                              amounts
	period, margin                       time.Duration
	concurrency, attempts, assumedOutput int64
	maxFailures                          int64
	waitForQuota                         bool
	template, model, system, endpoint    string
	maxTokens                            int64
	idField, inputFormat                 string
	only                                 []string
	ordered, dryRun, restart, changed    bool
	pricesFile                           string
	budget, maxCost                      float64
	json, quiet                          bool
	every                                time.Duration
	via                                  viaFlags

	body   bodyFlags
	schema schemaFlags

	endpoints endpointFlags
	cache     cacheFlags

	models map[string]modelConfig // by the config file
}

// amounts are those of the limits, by the names of their kinds.
type amounts map[string]*int64

var limitKinds = []struct {
	kind  llmqueue.LimitKind
	usage string
}{
	{llmqueue.KindRPM, "requests per minute"},
	{llmqueue.KindTPM, "tokens per minute, input and output together"},
	{llmqueue.KindITPM, "input tokens per minute"},
	{llmqueue.KindOTPM, "output tokens per minute"},
	{llmqueue.KindRPD, "requests per day"},
	{llmqueue.KindTPD, "tokens per day"},
}

func (f *runFlags) register(fs *pflag.FlagSet, retry bool) {
	fs.SortFlags = false
	fs.StringVarP(&f.output, "output", "o", "", "`file` of results, continued if it is there (required)")
	fs.StringVar(&f.config, "config", "", "YAML or JSON `file` with any of these flags by name, and limits by model")
	fs.StringVar(&f.baseURL, "base-url", os.Getenv("OPENAI_BASE_URL"), "the provider's `URL`, such as https://api.openai.com/v1 (default $OPENAI_BASE_URL)")
	fs.StringVar(&f.keyEnv, "key-env", "", "`name` of the environment variable that holds the key (default by the host: OPENAI_API_KEY, …, else LLMQ_API_KEY)")
	f.endpoints.register(fs)
	fs.StringVar(&f.keyFile, "key-file", "", "`file` that holds the key")
	fs.StringVar(&f.auth, "auth", "", "how the key is sent: bearer, api-key, x-api-key or x-goog-api-key (default by the host)")
	fs.StringArrayVar(&f.headers, "header", nil, "another `'Name: value'` to send, without keys; may be repeated")
	fs.StringVar(&f.caFile, "ca-file", "", "PEM `file` of certificates of authorities that the host's may be of, beside the system's")
	fs.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long one attempt may take (with --via flex 15m)")

	f.amounts = amounts{}
	for _, k := range limitKinds {
		f.amounts[string(k.kind)] = fs.Int64(string(k.kind), 0, k.usage+", of each model")
	}
	fs.Int64Var(&f.concurrency, "concurrency", 64, "requests in flight at once, of each model")
	fs.StringVar(&f.limits, "limits", "", "auto: learn them from the provider's answers; given: those of the flags (default auto where no flag gives one)")
	fs.StringVar(&f.accounting, "accounting", "auto", "what the provider charges: openai, azure, anthropic, gemini, groq, mistral, bedrock, bedrock-claude, estimate; auto takes what the host's documents say")
	fs.StringVar(&f.dayResets, "day-resets", "", "time `zone` at whose midnight --rpd and --tpd begin anew, such as America/Los_Angeles (default: they slide)")
	fs.DurationVar(&f.period, "period", time.Minute, "how long the minute of the limits is, for trials with llmq simulate --period")
	fs.DurationVar(&f.margin, "margin", -1, "how much longer than its period a limit is held, as the provider counts by its own clock (default 2% of the period, at most 250ms)")
	fs.Lookup("margin").DefValue = "0s" // not shown: the text says it
	fs.Int64Var(&f.attempts, "attempts", 5, "attempts of a request at most, where the provider's failure may pass")
	fs.Int64Var(&f.maxFailures, "max-failures", 100, "stop after so many failures of one kind in a row, of a model (0: never)")
	fs.BoolVar(&f.waitForQuota, "wait-for-quota", false, "wait when the provider's quota is used up, until it is renewed, instead of stopping")

	fs.StringVar(&f.template, "template", "", "make a prompt of each line's fields, such as 'Answer briefly: {{.question}}'")
	fs.StringVar(&f.model, "model", "", "model of the lines that name none")
	fs.StringVar(&f.system, "system", "", "with --template: the system's message")
	fs.Int64Var(&f.maxTokens, "max-tokens", 0, "with --template: bound of an answer (0: none)")
	f.body.register(fs)
	fs.StringVar(&f.endpoint, "endpoint", "", "`path` of the lines that name none, such as /v1/responses (default: as the body tells)")
	fs.StringVar(&f.idField, "id-field", "", "field that holds a line's id (default custom_id, else the line's number)")
	fs.StringVar(&f.inputFormat, "input-format", "", "jsonl, json (an array), csv or tsv (default: as the file's name ends or its first byte tells)")
	f.schema.register(fs)
	f.cache.register(fs)
	fs.BoolVar(&f.ordered, "ordered", false, "put the results in the order of the input when the run ends (default: in order of completion)")

	f.via.register(fs)

	if retry {
		fs.StringSliceVar(&f.only, "only", nil, "retry only failures of these `codes`, such as timeout or http_500; http_5xx is all from http_500 to http_599")
	} else {
		fs.BoolVar(&f.changed, "changed", false, "run those again whose request is another than the one that the output has a result of")
		fs.BoolVar(&f.restart, "restart", false, "begin the output anew, and keep what it had in a file beside it")
	}

	fs.StringVar(&f.pricesFile, "prices", "", "YAML or JSON `file` of prices: MODEL: {input: USD, output: USD} for a million tokens")
	fs.Float64Var(&f.budget, "budget-usd", 0, "spend at most so much on the output, earlier runs included (needs --prices)")
	fs.Float64Var(&f.maxCost, "max-cost", 0, "send nothing if all of it may cost more USD (needs --prices)")
	fs.Int64Var(&f.assumedOutput, "assume-output", 500, "tokens that an answer is taken to have, for cost and time, when its request has no bound")
	fs.BoolVar(&f.dryRun, "dry-run", false, "send nothing: count requests and tokens, tell time and cost")

	fs.BoolVar(&f.json, "json", false, "progress and summary as JSON lines on stdout")
	fs.BoolVarP(&f.quiet, "quiet", "q", false, "no progress")
	fs.DurationVar(&f.every, "progress-every", 0, "how often progress is shown (default 200ms on a terminal, else 10s)")
}

func newRun(retry bool) *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run REQUESTS",
		Short: "Run the requests that have no result yet",
		Long: `Run reads requests, one JSON object a line, an array of them or a table (plain, gzip or
zstd; - reads stdin), and runs those that have no result in the output yet. Lines are

  {"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"…",…}}
  {"custom_id":"a","params":{…}}      of an Anthropic batch
  {"key":"a","request":{…}}           of a Gemini batch, with --model
  {"model":"…","messages":[…]}        or a body for /v1/responses or /v1/embeddings
  {"question":"…"}                    any fields, or a row of a CSV or TSV file, with
                                      --template and --model

Results are lines of OpenAI's Batch format, failures among them. Stop it, kill it, run
it again: it goes on where it was. Ctrl-C once finishes what is in flight, twice ends;
a closed terminal or pipe does as the first.

` + exitCodes,
		Example: `  llmq run requests.jsonl -o results.jsonl --base-url https://api.openai.com/v1 --rpm 500 --tpm 200000
  llmq run questions.jsonl.gz -o results.jsonl --template 'Answer briefly: {{.question}}' --model gpt-4.1-mini
  llmq run faq.csv -o results.jsonl --template 'Answer briefly: {{.question}}' --model gpt-4.1-mini --id-field id
  zcat logs.gz | llmq run - -o results.jsonl --template 'Summarize: {{.text}}' --model gpt-4.1-mini
  llmq run requests.jsonl -o results.jsonl --prices prices.yaml --budget-usd 5
  llmq run requests.jsonl -o results.jsonl --via batch --deadline 6h
  llmq run requests.jsonl -o results.jsonl --dry-run --rpm 500 --tpm 200000 --prices prices.yaml`,
		Args: oneFile("requests", "requests.jsonl, or - for stdin"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0], retry) },
	}
	if retry {
		cmd.Use, cmd.Short = "retry REQUESTS", "Run the requests again whose result is a failure"
		cmd.Long = `Retry runs those requests again whose latest result in the output is a failure, and no
others; their new results replace the old ones. It takes the flags of llmq run.

` + exitCodes
		cmd.Example = `  llmq retry requests.jsonl -o results.jsonl --base-url https://api.openai.com/v1 --rpm 500 --tpm 200000
  llmq retry requests.jsonl -o results.jsonl --base-url https://api.openai.com/v1 --only timeout,http_5xx`
	}
	f.register(cmd.Flags(), retry)
	for name, values := range map[string][]string{
		"auth": auths, "limits": {"auto", "given"}, "via": {"calls", "batch", "flex"},
		"input-format": requests.Inputs,
		"accounting":   {"auto", "openai", "azure", "anthropic", "gemini", "groq", "mistral", "bedrock", "bedrock-claude", "estimate"},
		"endpoint":     {"/v1/chat/completions", "/v1/responses", "/v1/embeddings"},
	} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	return cmd
}

// oneFile wants one argument.
func oneFile(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return usage("no %s: name the file, such as %s; see %s --help", what, example, cmd.CommandPath())
		case 1:
			return nil
		}
		return usage("one file of %s, not %d: concatenate them, or run them one after the other", what, len(args))
	}
}

// flexTimeout is what OpenAI's guide advises: "increase default timeout to 15 minutes"
// (developers.openai.com/api/docs/guides/flex-processing).
const flexTimeout = 15 * time.Minute

func (f *runFlags) run(cmd *cobra.Command, input string, retry bool) error {
	if err := f.readConfig(cmd.Flags()); err != nil {
		return usage("%w", err)
	}
	if f.via.via == "flex" && !cmd.Flags().Changed("timeout") {
		f.timeout = flexTimeout
	}
	c, err := f.batch(input, retry)
	if err != nil {
		return usage("%w", err)
	}
	c.Stdin = cmd.InOrStdin()
	if f.dryRun {
		shower := f.shower(cmd, func(w io.Writer) io.Writer { return w })
		c.Notice = shower.Notice
		return f.estimate(cmd, c, shower)
	}
	in := newInterrupts()
	defer in.stop()
	shower := f.shower(cmd, in.watch)
	c.Notice, c.Progress = shower.Notice, shower.Show
	summary, err := batch.Run(cmd.Context(), c, in.C)
	f.summarize(cmd, shower, summary, retry, err != nil)
	return ended(summary, err)
}

// shower shows the run, by writers that watch makes.
func (f *runFlags) shower(cmd *cobra.Command, watch func(io.Writer) io.Writer) *progress.Shower {
	style, every := progress.Plain, 10*time.Second
	errs := watch(cmd.ErrOrStderr())
	switch {
	case f.json:
		style = progress.JSON
	case f.quiet:
		style = progress.None
	case isTerminal(cmd.ErrOrStderr()):
		style, every = progress.Bar, 200*time.Millisecond
		errs = cmd.ErrOrStderr() // the bar asks the terminal how wide it is
	}
	if f.every > 0 {
		every = f.every
	}
	return progress.New(style, errs, watch(cmd.OutOrStdout()), every)
}

// batch is what the flags come to.
func (f *runFlags) batch(input string, retry bool) (c batch.Config, err error) {
	c = batch.Config{
		Input: input, Output: f.output, Retry: retry, Only: f.only, Ordered: f.ordered, Restart: f.restart, Changed: f.changed,
		Margin: f.margin, Concurrency: f.concurrency, Attempts: int(f.attempts), MaxFailures: f.maxFailures, WaitForQuota: f.waitForQuota,
		Budget: f.budget, MaxCost: f.maxCost, AssumedOutput: f.assumedOutput,
		Format: requests.Format{Model: f.model, System: f.system, MaxTokens: f.maxTokens, Path: f.endpoint, IDField: f.idField, Input: f.inputFormat},
		Limits: f.limitsOf, Learn: f.learns,
	}
	switch {
	case f.output == "" && !f.dryRun:
		return c, fmt.Errorf("no output: name the file with -o, such as -o results.jsonl")
	case f.output == "-":
		return c, fmt.Errorf("-o - is not possible: a run goes on from its output, so it has to be a file")
	case f.baseURL == "" && !f.dryRun:
		return c, fmt.Errorf("no provider: give its --base-url, such as https://api.openai.com/v1")
	case f.concurrency < 1 || f.concurrency > 100_000:
		return c, fmt.Errorf("--concurrency %d: want 1 to 100000", f.concurrency)
	case f.attempts < 1 || f.attempts > 1000:
		return c, fmt.Errorf("--attempts %d: want 1 to 1000", f.attempts)
	case f.maxFailures < 0:
		return c, fmt.Errorf("--max-failures %d: want 0 or more", f.maxFailures)
	case f.timeout <= 0 || f.period <= 0:
		return c, fmt.Errorf("--timeout and --period want more than 0")
	case f.budget < 0 || f.maxCost < 0 || f.assumedOutput < 0 || f.maxTokens < 0:
		return c, fmt.Errorf("--budget-usd, --max-cost, --assume-output and --max-tokens want 0 or more")
	case (f.budget > 0 || f.maxCost > 0) && f.pricesFile == "":
		return c, fmt.Errorf("--budget-usd and --max-cost need --prices: a file with what the models' tokens cost")
	case input == "-" && f.maxCost > 0:
		return c, fmt.Errorf("--max-cost needs a file: what comes by stdin is not known before it is sent; use --budget-usd")
	case f.restart && f.changed:
		return c, fmt.Errorf("--restart and --changed exclude each other: give one")
	case input == "-" && retry:
		return c, fmt.Errorf("retry needs the file of requests, not stdin")
	case f.endpoint != "" && !strings.HasPrefix(f.endpoint, "/"):
		return c, fmt.Errorf("--endpoint %q: want a path such as /v1/chat/completions", f.endpoint)
	case f.inputFormat != "" && !slices.Contains(requests.Inputs, f.inputFormat):
		return c, fmt.Errorf("--input-format %q: want %s", f.inputFormat, strings.Join(requests.Inputs, ", "))
	case f.template == "" && (f.system != "" || f.maxTokens > 0):
		return c, fmt.Errorf("--system and --max-tokens go with --template: other lines have their own")
	case f.template != "" && f.model == "":
		return c, fmt.Errorf("--template needs --model")
	case !slices.Contains([]string{"", "auto", "given"}, f.limits):
		return c, fmt.Errorf("--limits %q: want auto or given", f.limits)
	case f.auth != "" && !slices.Contains(auths, f.auth):
		return c, fmt.Errorf("--auth %q: want %s", f.auth, strings.Join(auths, ", "))
	}
	if f.template != "" {
		if c.Format.Template, err = requests.ParseTemplate(f.template); err != nil {
			return c, fmt.Errorf("--template: %w", err)
		}
	}
	if err := f.body.apply(&c.Format); err != nil {
		return c, err
	}
	f.cache.apply(&c)
	if err := f.schema.apply(&c); err != nil {
		return c, err
	}
	if f.pricesFile != "" {
		if c.Prices, err = prices.Read(f.pricesFile); err != nil {
			return c, err
		}
	}
	if err := f.checkLimits(); err != nil {
		return c, err
	}
	p := providerAt(f.baseURL)
	if c.Via, err = f.via.read(p, input); err != nil {
		return c, err
	}
	if c.Via.On && (c.Cache != nil || len(f.endpoints.add)+len(f.endpoints.fallback) > 0) {
		return c, errors.New("--cache, --add-endpoint and --fallback are for calls: leave them out, or --via batch")
	}
	c.Format.MaxTokensField = p.maxTokens
	if c.Accounting, err = f.accountings(p); err != nil {
		return c, err
	}
	c.Caller = caller.Config{BaseURL: f.baseURL, Auth: f.auth, Timeout: f.timeout, Connections: int(f.concurrency)}
	if f.auth == "" {
		c.Caller.Auth = p.auth
	}
	if c.Caller.Header, err = readHeader(f.headers); err != nil {
		return c, err
	}
	if c.Caller.CAs, err = readCAs(f.caFile); err != nil {
		return c, err
	}
	if !f.dryRun {
		if c.Caller.Key, c.Caller.KeyFrom, err = readKey(p, f.keyEnv, f.keyFile); err != nil {
			return c, err
		}
	}
	return c, f.addEndpoints(&c)
}
