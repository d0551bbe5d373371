package llmhttp

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/llmqueue/llmqueue"
)

// ParseUsage reads what a call used from its answer: the body of one that came at
// once, or of a stream of server-sent events, of lines of JSON or of Amazon's frames. Zero
// means that it does not say.
//
// The input is everything the provider read, and cached input is a part of it. In a
// stream the figures are running totals, so the last one counts. A stream of
// Anthropic's that was cut before its first total of output gives nothing: what it
// says at its beginning is not what the call used. Neither does what is read about calls that
// were made before, such as a batch.
func ParseUsage(body []byte) llmqueue.Usage {
	var s scanner
	s.write(body)
	return s.usage()
}

// usageShape is one way to say what a call used. Its members are paths from the places where
// it stands. Those of input and output are added up; of the others the first that says
// anything counts. Adding a shape is adding a row, with a recorded answer in
// testdata/answers.jsonl.
type usageShape struct {
	of            string // whose it is, for the guide
	at            string // where it stands; a dot is the document itself
	input, output string
	cached        string // a part of the input
	total         string // everything; what it has beyond input and output is output
}

// usageShapes are all that are known. When an answer has several, which say the same, the
// first that says anything counts.
var usageShapes = []usageShape{
	{of: "Cohere, what it bills", at: "usage.billed_units meta.billed_units delta.usage.billed_units response.meta.billed_units",
		input: "input_tokens", output: "output_tokens"},
	{of: "OpenAI's chat completions and who follows them", at: "usage x_groq.usage choices[].usage delta.usage result.usage response.usage data.usage",
		input: "prompt_tokens", output: "completion_tokens", total: "total_tokens",
		cached: "prompt_tokens_details.cached_tokens cached_tokens cached_prompt_tokens prompt_cache_hit_tokens prompt_tokens_details.cache_read_tokens"},
	{of: "DeepSeek without a total", at: "usage", input: "prompt_cache_hit_tokens prompt_cache_miss_tokens", cached: "prompt_cache_hit_tokens"},
	{of: "OpenAI's responses, Anthropic, DashScope", at: "usage response.usage delta.usage message.usage",
		input: "input_tokens cache_creation_input_tokens cache_read_input_tokens", output: "output_tokens",
		cached: "input_tokens_details.cached_tokens input_token_details.cached_tokens cache_read_input_tokens"},
	{of: "Cohere without a bill", at: "usage.tokens meta.tokens delta.usage.tokens response.meta.tokens",
		input: "input_tokens", output: "output_tokens"},
	{of: "Gemini, Vertex AI", at: "usagemetadata response.usagemetadata",
		input: "prompttokencount tooluseprompttokencount", output: "candidatestokencount thoughtstokencount",
		cached: "cachedcontenttokencount", total: "totaltokencount"},
	{of: "Gemini's interactions", at: "usage interaction.usage",
		input: "total_input_tokens total_tool_use_tokens", output: "total_output_tokens total_thought_tokens", cached: "total_cached_tokens"},
	{of: "Bedrock's Converse, Vercel's SDK", at: "usage metadata.usage",
		input: "inputtokens cachereadinputtokens cachewriteinputtokens", output: "outputtokens", cached: "cachereadinputtokens inputtokendetails.cachereadtokens"},
	{of: "Bedrock's InvokeModel, in a stream", at: "amazon-bedrock-invocationmetrics",
		input: "inputtokencount cachereadinputtokencount cachewriteinputtokencount", output: "outputtokencount", cached: "cachereadinputtokencount"},
	{of: "Bedrock's Titan and Llama", at: ".",
		input: "inputtexttokencount prompt_token_count", output: "results[].tokencount generation_token_count totaloutputtexttokencount"},
	{of: "Ollama", at: ".", input: "prompt_eval_count", output: "eval_count"},
	{of: "llama.cpp's own", at: ".", input: "tokens_evaluated", output: "tokens_predicted"},
	{of: "Text Generation Inference", at: "details", output: "generated_tokens"},
	{of: "Replicate", at: "metrics", input: "input_token_count", output: "output_token_count"},
	{of: "watsonx", at: "results[]", input: "input_token_count", output: "generated_token_count"},
	{of: "Tencent", at: "response.usage usage", input: "prompttokens", output: "completiontokens"},
}

// usageHeaders tell the same where a body does not: of Bedrock's InvokeModel, whose answers
// are the models' own, and of Text Generation and Text Embeddings Inference.
var usageHeaders = []struct{ input, output, cached string }{
	{"X-Amzn-Bedrock-Input-Token-Count", "X-Amzn-Bedrock-Output-Token-Count", "X-Amzn-Bedrock-Cache-Read-Input-Token-Count"},
	{"X-Prompt-Tokens", "X-Generated-Tokens", ""},
	{"X-Compute-Tokens", "", ""},
}

// shapeFigures are the indexes of a shape's members in counts.
type shapeFigures struct{ input, output, cached, total []uint8 }

var shapes []shapeFigures

// addFigures puts the members of all shapes into the tree.
func addFigures(n *node) {
	index := map[string]uint8{}
	added := map[string]bool{}
	for row, s := range usageShapes {
		addAll := func(names string) (is []uint8) {
			for name := range strings.FieldsSeq(names) {
				key := strconv.Itoa(row) + " " + name
				i, ok := index[key]
				if !ok {
					i = uint8(len(index))
					index[key] = i
				}
				is = append(is, i)
				for at := range strings.FieldsSeq(s.at) {
					path := strings.TrimPrefix(at+"."+name, "..")
					if !added[key+" "+path] {
						added[key+" "+path] = true
						n.add(path, fact{role: roleFigure, n: i, top: at == "message.usage"})
					}
				}
			}
			return is
		}
		shapes = append(shapes, shapeFigures{addAll(s.input), addAll(s.output), addAll(s.cached), addAll(s.total)})
	}
	if len(index) > maxFigures {
		panic("llmhttp: more figures than there is room for")
	}
}

const maxFigures = 64

// counts are the figures of an answer so far. They are running totals: those that are left
// out, or zero, say nothing new.
type counts [maxFigures]int64

func (c *counts) sum(is []uint8) (n int64) {
	for _, i := range is {
		n += c[i]
	}
	return n
}

func (c *counts) first(is []uint8) int64 {
	for _, i := range is {
		if c[i] > 0 {
			return c[i]
		}
	}
	return 0
}

// usage adds up what the shapes have apart.
func (c *counts) usage() (u llmqueue.Usage) {
	var total int64
	for i := range shapes {
		s := &shapes[i]
		input, output := c.sum(s.input), c.sum(s.output)
		if all := c.first(s.total); all > input+output {
			if input+output > 0 {
				output = all - input // thoughts that neither has
			} else {
				total = max(total, all)
			}
		}
		if u.InputTokens == 0 {
			u.InputTokens = input
		}
		if u.OutputTokens == 0 {
			u.OutputTokens = output
		}
		if u.CachedInputTokens == 0 {
			u.CachedInputTokens = c.first(s.cached)
		}
	}
	if u == (llmqueue.Usage{}) {
		u.InputTokens = total // of embeddings, which say nothing else
	}
	u.CachedInputTokens = min(u.CachedInputTokens, u.InputTokens)
	return u
}

// headerUsage is what the headers of an answer say that it used.
func headerUsage(h http.Header) llmqueue.Usage {
	for _, names := range usageHeaders {
		input, _ := integer(h.Get(names.input))
		output, _ := integer(h.Get(names.output))
		if input > 0 || output > 0 {
			cached, _ := integer(h.Get(names.cached))
			input = max(input, 0)
			return llmqueue.Usage{InputTokens: input, OutputTokens: max(output, 0), CachedInputTokens: min(max(cached, 0), input)}
		}
	}
	return llmqueue.Usage{}
}

// maxCount bounds one figure, so that sums stay far from overflow.
const maxCount = 1 << 40

// count reads a number of tokens, also 12.0 as Cohere writes it. What cannot be one is zero.
func count(raw []byte) int64 {
	n, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || !(n >= 0 && n <= maxCount) {
		return 0
	}
	return int64(n)
}
