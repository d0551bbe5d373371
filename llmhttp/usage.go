package llmhttp

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/llmqueue/llmqueue"
)

// ParseUsage reads what a call used from its answer: the body of one that came at
// once, or of a stream of server-sent events or of lines of JSON. Zero means that it
// does not say.
//
// The input is everything the provider read, and cached input is a part of it. In a
// stream the figures are running totals, so the last one counts. A stream of
// Anthropic's that was cut before its first total of output gives nothing: what it
// says at its beginning is not what the call used.
func ParseUsage(body []byte) llmqueue.Usage {
	var s scanner
	s.write(body)
	return s.usage()
}

// findings is what the documents of one answer said so far.
type findings struct {
	failure bool // every document is worth reading: the answer is a failure
	isError bool // the document is an error: so its event is named
	counts  counts
	early   bool // counts holds only what Anthropic says at the beginning of a stream
	err     *apiError
}

// document is what the scanner keeps of one.
type document struct {
	Usage         *counts         `json:"usage"`
	UsageMetadata *counts         `json:"usageMetadata"`
	Error         json.RawMessage `json:"error"`

	// These have the usage or the error of some streams.
	Message  part `json:"message"`
	Response part `json:"response"`
	Delta    part `json:"delta"`
	XGroq    part `json:"x_groq"`

	Type       text `json:"type"`
	Object     text `json:"object"`
	Code       text `json:"code"`
	Param      text `json:"param"`
	AmazonType text `json:"__type"`
	Detail     text `json:"detail"`

	PromptEvalCount count `json:"prompt_eval_count"`
	EvalCount       count `json:"eval_count"`
}

// part is an object within a document, or a text that stands in its place.
type part struct {
	Usage *counts         `json:"usage"`
	Error json.RawMessage `json:"error"`
	Text  text            `json:"-"`
}

// UnmarshalJSON takes either.
func (p *part) UnmarshalJSON(data []byte) error {
	if data[0] != '{' {
		return p.Text.UnmarshalJSON(data)
	}
	type object part
	return json.Unmarshal(data, (*object)(p))
}

// take reads a document that the scanner kept. What does not fit its shape is left
// out: the rest may still tell something.
func (f *findings) take(doc []byte) {
	var d document
	_ = json.Unmarshal(doc, &d)
	for _, u := range []*counts{d.Usage, d.UsageMetadata, d.Response.Usage, d.Delta.Usage, d.XGroq.Usage} {
		if u != nil {
			f.counts.heed(*u)
			f.early = false
		}
	}
	if u := d.Message.Usage; u != nil {
		f.counts.heed(*u)
		f.early = true
	}
	f.counts.heed(counts{PromptTokens: d.PromptEvalCount, CompletionTokens: d.EvalCount})
	e := d.apiError(f.failure || f.isError)
	if e == nil {
		return
	}
	e.found = e.found || f.isError
	if e.found || f.err == nil || !f.err.found {
		f.err = e
	}
}

// observation is what the end of a body tells.
func (f *findings) observation(now time.Time) llmqueue.Observation {
	o := llmqueue.Observation{}
	if f.err != nil {
		o = f.err.observation(0, nil, now)
	}
	o.Usage = f.usage()
	return o
}

func (f *findings) usage() llmqueue.Usage {
	if f.early {
		return llmqueue.Usage{}
	}
	return f.counts.usage()
}

// counts is a usage object of any provider.
type counts struct {
	// OpenAI's chat completions and those who follow it.
	PromptTokens        count `json:"prompt_tokens"`
	CompletionTokens    count `json:"completion_tokens"`
	PromptTokensDetails struct {
		CachedTokens count `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	PromptCacheHitTokens count `json:"prompt_cache_hit_tokens"` // DeepSeek

	// OpenAI's responses, Anthropic, Cohere.
	InputTokens        count `json:"input_tokens"`
	OutputTokens       count `json:"output_tokens"`
	InputTokensDetails struct {
		CachedTokens count `json:"cached_tokens"`
	} `json:"input_tokens_details"`
	CacheCreationInputTokens count `json:"cache_creation_input_tokens"`
	CacheReadInputTokens     count `json:"cache_read_input_tokens"`
	Tokens                   struct {
		InputTokens  count `json:"input_tokens"`
		OutputTokens count `json:"output_tokens"`
	} `json:"tokens"`

	// Gemini.
	PromptTokenCount        count `json:"promptTokenCount"`
	ToolUsePromptTokenCount count `json:"toolUsePromptTokenCount"`
	CachedContentTokenCount count `json:"cachedContentTokenCount"`
	CandidatesTokenCount    count `json:"candidatesTokenCount"`
	ThoughtsTokenCount      count `json:"thoughtsTokenCount"`

	// Bedrock Converse.
	BedrockInput      count `json:"inputTokens"`
	BedrockOutput     count `json:"outputTokens"`
	BedrockCacheRead  count `json:"cacheReadInputTokens"`
	BedrockCacheWrite count `json:"cacheWriteInputTokens"`
}

// figures lists every figure.
func (c *counts) figures() []*count {
	return []*count{
		&c.PromptTokens, &c.CompletionTokens, &c.PromptTokensDetails.CachedTokens, &c.PromptCacheHitTokens,
		&c.InputTokens, &c.OutputTokens, &c.InputTokensDetails.CachedTokens, &c.CacheCreationInputTokens, &c.CacheReadInputTokens,
		&c.Tokens.InputTokens, &c.Tokens.OutputTokens,
		&c.PromptTokenCount, &c.ToolUsePromptTokenCount, &c.CachedContentTokenCount, &c.CandidatesTokenCount, &c.ThoughtsTokenCount,
		&c.BedrockInput, &c.BedrockOutput, &c.BedrockCacheRead, &c.BedrockCacheWrite,
	}
}

// heed puts later figures in the place of earlier ones. They are running totals:
// those that are left out, or zero, say nothing new.
func (c *counts) heed(later counts) {
	mine := c.figures()
	for i, n := range later.figures() {
		if *n > 0 {
			*mine[i] = *n
		}
	}
}

// usage adds up what the shapes have apart. Some gateways give two shapes at once,
// which say the same: the first that says anything counts.
func (c *counts) usage() llmqueue.Usage {
	// Anthropic and Bedrock count the cached input apart from the rest.
	input := first(c.PromptTokens,
		c.InputTokens+c.CacheCreationInputTokens+c.CacheReadInputTokens,
		c.Tokens.InputTokens,
		c.PromptTokenCount+c.ToolUsePromptTokenCount,
		c.BedrockInput+c.BedrockCacheRead+c.BedrockCacheWrite)
	return llmqueue.Usage{
		InputTokens: input,
		OutputTokens: first(c.CompletionTokens, c.OutputTokens, c.Tokens.OutputTokens,
			c.CandidatesTokenCount+c.ThoughtsTokenCount, c.BedrockOutput),
		CachedInputTokens: min(input, first(c.PromptTokensDetails.CachedTokens, c.PromptCacheHitTokens,
			c.InputTokensDetails.CachedTokens, c.CacheReadInputTokens, c.CachedContentTokenCount, c.BedrockCacheRead)),
	}
}

func first(all ...count) int64 {
	for _, n := range all {
		if n > 0 {
			return int64(n)
		}
	}
	return 0
}

// count is a number of tokens. What cannot be one is read as zero.
type count int64

// maxCount bounds one figure, so that sums stay far from overflow.
const maxCount = 1 << 40

// UnmarshalJSON also takes 12.0, as Cohere writes it.
func (c *count) UnmarshalJSON(data []byte) error {
	*c = 0
	s := strings.Trim(string(data), `"`)
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n <= maxCount {
		*c = count(n)
	}
	return nil
}
