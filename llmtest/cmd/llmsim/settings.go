package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// settings is what the flags say.
type settings struct {
	provider llmtest.Provider
	options  []llmtest.Option
	hint     string // how to point an SDK at the URL, which it has as %s
	every    time.Duration
	timeline time.Duration
}

// A dialect is a provider by its name on the command line.
type dialect struct {
	provider func(...llmtest.Limit) llmtest.Provider
	hint     string
}

var dialects = map[string]dialect{
	"openai":    {llmtest.OpenAI, "OPENAI_BASE_URL=%s"},
	"azure":     {llmtest.AzureOpenAI, "AZURE_OPENAI_ENDPOINT=%s, and any deployment"},
	"anthropic": {llmtest.Anthropic, "ANTHROPIC_BASE_URL=%s"},
	"gemini":    {llmtest.Gemini, "GOOGLE_GEMINI_BASE_URL=%s"},
	"groq":      {llmtest.Groq, "any OpenAI SDK with OPENAI_BASE_URL=%s"},
	"mistral":   {llmtest.Mistral, "any OpenAI SDK with OPENAI_BASE_URL=%s"},
	"ollama":    {llmtest.Ollama, "OLLAMA_HOST=%s"},
}

var strategies = map[string]llmtest.Strategy{
	"bucket": llmtest.TokenBucket, "sliding": llmtest.SlidingWindow, "fixed": llmtest.FixedWindow, "quantized": llmtest.Quantized,
}

var faultKinds = []llmtest.FaultKind{
	llmtest.FaultSlow, llmtest.FaultStall, llmtest.FaultCut, llmtest.FaultReset, llmtest.FaultStream, llmtest.FaultQuota, llmtest.FaultSpend, llmtest.FaultHeaders,
}

func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

// parse reads the command line. Help goes to out; errors fit on one line.
func parse(args []string, key string, out io.Writer) (s settings, err error) {
	fs := flag.NewFlagSet("llmsim", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	provider := fs.String("provider", "openai", "whose protocol to speak: "+names(dialects))
	listen := fs.String("listen", "127.0.0.1:8080", "`address` to listen on; port 0 takes a free one")
	strategy := fs.String("strategy", "", "how to enforce limits: "+names(strategies)+"; empty as the provider does")
	limits := []struct {
		amount *int64
		limit  func(int64) llmtest.Limit
	}{
		{fs.Int64("rpm", 0, "requests per minute; 0 for no limit"), llmtest.RPM},
		{fs.Int64("rpd", 0, "requests per day"), llmtest.RPD},
		{fs.Int64("tpm", 0, "tokens per minute"), llmtest.TPM},
		{fs.Int64("tpd", 0, "tokens per day"), llmtest.TPD},
		{fs.Int64("itpm", 0, "input tokens per minute"), llmtest.ITPM},
		{fs.Int64("otpm", 0, "output tokens per minute"), llmtest.OTPM},
		{fs.Int64("concurrent", 0, "requests in progress"), llmtest.Concurrent},
	}
	typical := llmtest.TypicalLatency()
	first := fs.Duration("latency", typical.FirstToken, "median time to the first token")
	each := fs.Duration("per-token", typical.PerToken, "median time for each further token")
	spread := fs.Float64("spread", typical.Spread, "spread of both: standard deviation of the logarithm")
	output := fs.Int64("output", 120, "median length of an answer in tokens")
	seed := fs.Uint64("seed", 1, "seed of everything that is drawn")
	var load llmtest.Load
	fs.Int64Var(&load.Parallel, "parallel", 0, "requests worked on at once, others wait")
	fs.Int64Var(&load.Knee, "knee", 0, "requests in progress above which everything slows down")
	fs.Int64Var(&load.Capacity, "capacity", 0, "requests in progress above which the server is overloaded")
	faults := fs.String("faults", "", "shares of requests that fail, such as 0.05:503,0.01:cut; a status or one of "+kinds())
	fs.DurationVar(&s.every, "every", 0, "show figures this often; 0 only at the end")
	fs.DurationVar(&s.timeline, "timeline", 0, "show a timeline in steps of this at the end; 0 shows none")

	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(out, "llmsim serves a simulated LLM provider. LLMSIM_KEY in the environment is the key that it wants.")
		fs.SetOutput(out)
		fs.PrintDefaults()
		return s, err
	case err != nil:
		return s, err
	case fs.NArg() > 0:
		return s, fmt.Errorf("unexpected argument %q: all settings are flags, see -help", fs.Arg(0))
	}

	d, ok := dialects[*provider]
	if !ok {
		return s, fmt.Errorf("unknown provider %q: want one of %s", *provider, names(dialects))
	}
	if err := checkAddress(*listen, key); err != nil {
		return s, err
	}
	var given []llmtest.Limit
	for _, l := range limits {
		if *l.amount != 0 {
			given = append(given, l.limit(*l.amount))
		}
	}
	s.provider, s.hint = d.provider(given...), d.hint
	s.options = []llmtest.Option{
		llmtest.ListenOn(*listen),
		llmtest.WithKey(key),
		llmtest.WithSeed(*seed),
		llmtest.WithOutputTokens(*output, 0.5),
		llmtest.WithLatency(llmtest.Latency{FirstToken: *first, PerToken: *each, Spread: *spread}),
	}
	if *strategy != "" {
		st, ok := strategies[*strategy]
		if !ok {
			return s, fmt.Errorf("unknown strategy %q: want one of %s", *strategy, names(strategies))
		}
		s.options = append(s.options, llmtest.WithStrategy(st))
	}
	if load != (llmtest.Load{}) { // otherwise the provider's own stays
		s.options = append(s.options, llmtest.WithLoad(load))
	}
	options, err := parseFaults(*faults)
	s.options = append(s.options, options...)
	return s, err
}

// checkAddress keeps a server that anyone may use from listening to everyone.
func checkAddress(address, key string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("-listen %q: want an address such as 127.0.0.1:8080", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && key == "" {
		return fmt.Errorf("-listen %q is no loopback address: set LLMSIM_KEY to the key that clients must have", address)
	}
	return nil
}

func kinds() string {
	list := make([]string, len(faultKinds))
	for i, k := range faultKinds {
		list[i] = string(k)
	}
	return strings.Join(list, ", ")
}

// parseFaults reads "SHARE:FAULT,…".
func parseFaults(text string) (options []llmtest.Option, err error) {
	if text == "" {
		return nil, nil
	}
	for item := range strings.SplitSeq(text, ",") {
		share, what, ok := strings.Cut(item, ":")
		value, err := strconv.ParseFloat(share, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("-faults %q: want SHARE:FAULT, such as 0.05:503", item)
		}
		fault := llmtest.Fault{Kind: llmtest.FaultKind(what)}
		if status, err := strconv.Atoi(what); err == nil {
			fault = llmtest.Fault{Status: status}
		} else if !slices.Contains(faultKinds, fault.Kind) {
			return nil, fmt.Errorf("-faults %q: want a status or one of %s", item, kinds())
		}
		options = append(options, llmtest.WithFaultShare(value, fault))
	}
	return options, nil
}

// trim takes the package's name off its errors: the command's own stands there.
func trim(err error) error { return errors.New(strings.TrimPrefix(err.Error(), "llmtest: ")) }
