package simulate

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue/llmtest"
)

// A dialect is a provider by its name on the command line.
type dialect struct {
	provider func(...llmtest.Limit) llmtest.Provider
	hint     string
}

var dialects = map[string]dialect{
	"openai":    {llmtest.OpenAI, "OPENAI_BASE_URL=%s"},
	"azure":     {llmtest.AzureOpenAI, "AZURE_OPENAI_ENDPOINT=%s, and any deployment"},
	"anthropic": {llmtest.Anthropic, "ANTHROPIC_BASE_URL=%s"},
	"bedrock":   {llmtest.Bedrock, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME=%s, and any region and keys"},
	"cohere":    {llmtest.Cohere, "CO_API_URL=%s"},
	"gemini":    {llmtest.Gemini, "GOOGLE_GEMINI_BASE_URL=%s"},
	"groq":      {llmtest.Groq, "any OpenAI SDK with OPENAI_BASE_URL=%s"},
	"mistral":   {llmtest.Mistral, "any OpenAI SDK with OPENAI_BASE_URL=%s"},
	"ollama":    {llmtest.Ollama, "OLLAMA_HOST=%s"},
}

var strategies = map[string]llmtest.Strategy{
	"bucket": llmtest.TokenBucket, "sliding": llmtest.SlidingWindow, "fixed": llmtest.FixedWindow, "quantized": llmtest.Quantized,
}

var faultKinds = []llmtest.FaultKind{
	llmtest.FaultSlow, llmtest.FaultStall, llmtest.FaultCut, llmtest.FaultReset, llmtest.FaultStream, llmtest.FaultBody,
	llmtest.FaultAnswer, llmtest.FaultQuota, llmtest.FaultSpend, llmtest.FaultFull, llmtest.FaultHeaders,
}

func names[V any](m map[string]V) string { return strings.Join(slices.Sorted(maps.Keys(m)), ", ") }

// flags is what the flags say.
type flags struct {
	provider, listen, strategy, faults string
	limits                             []limitFlag
	period                             time.Duration
	first, each                        time.Duration
	spread                             float64
	output                             int64
	seed                               uint64
	load                               llmtest.Load
	every, timeline                    time.Duration
	batch                              time.Duration
}

// A limitFlag is the amount of one limit, 0 for none.
type limitFlag struct {
	amount *int64
	limit  func(int64) llmtest.Limit
}

// register adds the flags to fs, with their defaults.
func (f *flags) register(fs *flag.FlagSet) {
	fs.StringVar(&f.provider, "provider", "openai", "whose protocol to speak: "+names(dialects))
	fs.StringVar(&f.listen, "listen", "127.0.0.1:8080", "`address` to listen on; port 0 takes a free one")
	fs.StringVar(&f.strategy, "strategy", "", "how to enforce limits: "+names(strategies)+"; empty as the provider does")
	f.limits = []limitFlag{
		{fs.Int64("rpm", 0, "requests per minute; 0 for no limit"), llmtest.RPM},
		{fs.Int64("rpd", 0, "requests per day"), llmtest.RPD},
		{fs.Int64("tpm", 0, "tokens per minute"), llmtest.TPM},
		{fs.Int64("tpd", 0, "tokens per day"), llmtest.TPD},
		{fs.Int64("itpm", 0, "input tokens per minute"), llmtest.ITPM},
		{fs.Int64("otpm", 0, "output tokens per minute"), llmtest.OTPM},
		{fs.Int64("concurrent", 0, "requests in progress"), llmtest.Concurrent},
	}
	fs.DurationVar(&f.period, "period", time.Minute, "how long the minute of the limits per minute is, to make trials quick")
	typical := llmtest.TypicalLatency()
	fs.DurationVar(&f.first, "latency", typical.FirstToken, "median time to the first token")
	fs.DurationVar(&f.each, "per-token", typical.PerToken, "median time for each further token")
	fs.Float64Var(&f.spread, "spread", typical.Spread, "spread of both: standard deviation of the logarithm")
	fs.Int64Var(&f.output, "output", 120, "median length of an answer in tokens")
	fs.Uint64Var(&f.seed, "seed", 1, "seed of everything that is drawn")
	fs.Int64Var(&f.load.Parallel, "parallel", 0, "requests worked on at once, others wait")
	fs.Int64Var(&f.load.Knee, "knee", 0, "requests in progress above which everything slows down")
	fs.Int64Var(&f.load.Capacity, "capacity", 0, "requests in progress above which the server is overloaded")
	fs.StringVar(&f.faults, "faults", "", "shares of requests that fail, such as 0.05:503,0.01:cut; a status or one of "+kinds())
	fs.DurationVar(&f.batch, "batch-duration", 0, "how long a batch lasts, where the provider has any")
	fs.DurationVar(&f.every, "every", 0, "show figures this often; 0 only at the end")
	fs.DurationVar(&f.timeline, "timeline", 0, "show a timeline in steps of this at the end; 0 shows none")
}

// server is the provider and its options that the flags come to. Errors fit on one line.
func (f *flags) server(key, keyFrom string) (provider llmtest.Provider, options []llmtest.Option, err error) {
	d, ok := dialects[f.provider]
	if !ok {
		return provider, nil, fmt.Errorf("unknown provider %q: want one of %s", f.provider, names(dialects))
	}
	if err := checkAddress(f.listen, key, keyFrom); err != nil {
		return provider, nil, err
	}
	if f.period <= 0 {
		return provider, nil, fmt.Errorf("-period %v: want more than 0, such as 1s", f.period)
	}
	var given []llmtest.Limit
	for _, l := range f.limits {
		if *l.amount != 0 {
			limit := l.limit(*l.amount)
			if limit.Period == time.Minute {
				limit = limit.Per(f.period)
			}
			given = append(given, limit)
		}
	}
	options = []llmtest.Option{
		llmtest.ListenOn(f.listen),
		llmtest.WithKey(key),
		llmtest.WithSeed(f.seed),
		llmtest.WithBatches(llmtest.Batches{Duration: f.batch}),
		llmtest.WithOutputTokens(f.output, 0.5),
		llmtest.WithLatency(llmtest.Latency{FirstToken: f.first, PerToken: f.each, Spread: f.spread}),
	}
	if f.strategy != "" {
		st, ok := strategies[f.strategy]
		if !ok {
			return provider, nil, fmt.Errorf("unknown strategy %q: want one of %s", f.strategy, names(strategies))
		}
		options = append(options, llmtest.WithStrategy(st))
	}
	if f.load != (llmtest.Load{}) { // otherwise the provider's own stays
		options = append(options, llmtest.WithLoad(f.load))
	}
	faults, err := parseFaults(f.faults)
	return d.provider(given...), append(options, faults...), err
}

// checkAddress keeps a server that anyone may use from listening to everyone.
func checkAddress(address, key, keyFrom string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("-listen %q: want an address such as 127.0.0.1:8080", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && key == "" {
		return fmt.Errorf("-listen %q is no loopback address: set %s to the key that clients must have", address, keyFrom)
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
