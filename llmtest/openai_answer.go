package llmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// An answer is the answer to one accepted request.
type answer struct {
	w     http.ResponseWriter
	req   *chatRequest
	call  call
	reply reply
	id    string
	began time.Time
}

// write sends the answer at its own pace and returns what became of it and how
// many tokens it had produced by then.
func (a *answer) write(ctx context.Context) (Verdict, int64) {
	if a.reply.fault != (Fault{}) {
		writeFault(a.w, a.reply.fault)
		return Failed, 0
	}
	clock := clock{start: a.began}
	defer clock.stop()
	if a.req.Stream {
		return a.stream(ctx, &clock)
	}
	if !clock.sleepUntil(ctx, a.reply.timing.due(a.reply.tokens)) {
		return Canceled, a.reply.timing.produced(time.Since(a.began), a.reply.tokens)
	}
	text := a.reply.text()
	body := a.completion("chat.completion")
	body.Usage = a.usage()
	body.Choices = []choice{{Message: &message{"assistant", &text}, FinishReason: a.finishReason()}}
	if writeJSON(a.w, http.StatusOK, body) != nil {
		return Canceled, a.reply.tokens
	}
	return Completed, a.reply.tokens
}

// completion is the body of an answer, and a chunk of a streamed one.
type completion struct {
	ID      string   `json:"id"`
	Object  string   `json:"object"`
	Created int64    `json:"created"`
	Model   string   `json:"model"`
	Choices []choice `json:"choices"`
	Usage   any      `json:"usage,omitempty"` // *usage, or json null in the chunks before the last
}

type choice struct {
	Index        int      `json:"index"`
	Message      *message `json:"message,omitempty"`
	Delta        *message `json:"delta,omitempty"`
	Logprobs     *string  `json:"logprobs"`
	FinishReason *string  `json:"finish_reason"`
}

// message is a whole message, or what a chunk adds to one: a nil Content is left
// out.
type message struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type usage struct {
	PromptTokens        int64 `json:"prompt_tokens"`
	CompletionTokens    int64 `json:"completion_tokens"`
	TotalTokens         int64 `json:"total_tokens"`
	PromptTokensDetails struct {
		CachedTokens int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionTokensDetails struct {
		ReasoningTokens int64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

func (a *answer) completion(object string) completion {
	return completion{ID: a.id, Object: object, Created: a.began.Unix(), Model: a.call.model, Choices: []choice{}}
}

func (a *answer) usage() *usage {
	return &usage{
		PromptTokens:     a.call.input,
		CompletionTokens: a.reply.tokens,
		TotalTokens:      a.call.input + a.reply.tokens,
	}
}

func (a *answer) finishReason() *string {
	reason := "stop"
	if a.reply.cut {
		reason = "length"
	}
	return &reason
}

// writeJSON writes a JSON answer.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.WriteHeader(status)
	_, err = w.Write(data)
	return err
}

// writeError writes an error in OpenAI's shape, in which an absent param or
// code is null.
func writeError(w http.ResponseWriter, status int, message, kind, param, code string) {
	var body struct {
		Error struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Param   *string `json:"param"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	body.Error.Message, body.Error.Type = message, kind
	if param != "" {
		body.Error.Param = &param
	}
	if code != "" {
		body.Error.Code = &code
	}
	_ = writeJSON(w, status, body)
}

func writeFault(w http.ResponseWriter, f Fault) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", wholeSeconds(f.RetryAfter))
	}
	kind, code := f.code()
	writeError(w, f.Status, "llmtest: a fault was injected here.", kind, "", code)
}

// writeRefusal writes the 429 for a broken limit. A request that is larger than
// the limit gets no Retry-After: waiting would not help it.
func writeRefusal(w http.ResponseWriter, model string, r *refusal) {
	text := fmt.Sprintf("Rate limit reached for %s on %v: Limit %d, Used %d, Requested %d. Please try again in %v.",
		model, r.limit, r.limit.Amount, r.used, r.requested, wholeMillis(r.wait))
	if r.never {
		text = fmt.Sprintf("Request too large for %s on %v: Limit %d, Requested %d. The input or output tokens must be reduced in order to run successfully.",
			model, r.limit, r.limit.Amount, r.requested)
	} else {
		w.Header().Set("Retry-After", wholeSeconds(r.wait))
	}
	kind := "requests"
	if r.limit.Kind == KindTokens {
		kind = "tokens"
	}
	writeError(w, http.StatusTooManyRequests, text, kind, "", "rate_limit_exceeded")
}

// writeQuota sets the rate limit headers of the kinds that have a limit.
func writeQuota(h http.Header, q quota) {
	for _, k := range []struct {
		limit, remaining, reset string
		quotaState
	}{
		{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", q.requests},
		{"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", q.tokens},
	} {
		if k.known {
			h.Set(k.limit, strconv.FormatInt(k.quotaState.limit, 10))
			h.Set(k.remaining, strconv.FormatInt(k.quotaState.remaining, 10))
			h.Set(k.reset, wholeMillis(k.quotaState.reset).String())
		}
	}
}

// wholeMillis rounds up to the millisecond, which is as fine as OpenAI's
// durations are. Rounding down would promise room too early.
func wholeMillis(d time.Duration) time.Duration {
	return roundUp(d, time.Millisecond)
}

// wholeSeconds formats a duration for Retry-After, rounded up.
func wholeSeconds(d time.Duration) string {
	return strconv.FormatInt(int64(roundUp(d, time.Second)/time.Second), 10)
}

func roundUp(d, unit time.Duration) time.Duration {
	return (d + unit - 1) / unit * unit
}
