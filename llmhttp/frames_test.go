package llmhttp_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// frame is a message of Amazon's event streams. Headers are pairs of names and values.
func frame(payload string, headers ...string) []byte {
	var h bytes.Buffer
	for i := 0; i+1 < len(headers); i += 2 {
		h.WriteByte(byte(len(headers[i])))
		h.WriteString(headers[i])
		h.WriteByte(7) // a string
		_ = binary.Write(&h, binary.BigEndian, uint16(len(headers[i+1])))
		h.WriteString(headers[i+1])
	}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.BigEndian, uint32(16+h.Len()+len(payload)))
	_ = binary.Write(&b, binary.BigEndian, uint32(h.Len()))
	_ = binary.Write(&b, binary.BigEndian, crc32.ChecksumIEEE(b.Bytes()))
	b.Write(h.Bytes())
	b.WriteString(payload)
	_ = binary.Write(&b, binary.BigEndian, crc32.ChecksumIEEE(b.Bytes()))
	return b.Bytes()
}

func event(kind, payload string) []byte {
	return frame(payload, ":message-type", "event", ":event-type", kind, ":content-type", "application/json")
}

func exception(kind, payload string) []byte {
	return frame(payload, ":message-type", "exception", ":exception-type", kind, ":content-type", "application/json")
}

var (
	converseStart = event("messageStart", `{"role":"assistant"}`)
	converseWord  = event("contentBlockDelta", `{"contentBlockIndex":0,"delta":{"text":"Hi {\"usage\":{\"inputTokens\":9}}"}}`)
	converseStop  = event("messageStop", `{"stopReason":"end_turn"}`)
	converseUsage = event("metadata", `{"usage":{"inputTokens":30,"outputTokens":12,"totalTokens":62,"cacheReadInputTokens":20},"metrics":{"latencyMs":5}}`)
)

func converseStream() []byte {
	return bytes.Join([][]byte{converseStart, converseWord, converseStop, converseUsage}, nil)
}

// invoked is a frame of InvokeModelWithResponseStream, whose documents are the model's own.
func invoked(document string) []byte {
	return event("chunk", `{"bytes":"`+base64.StdEncoding.EncodeToString([]byte(document))+`","p":"abc"}`)
}

// Bedrock's streams are read frame by frame: usage, exceptions and ends.
func TestAmazonFrames(t *testing.T) {
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	for _, c := range []struct {
		name string
		body []byte
		want llmqueue.Outcome
		used llmqueue.Usage
	}{
		{"converse", converseStream(), llmqueue.OutcomeServed, used(50, 12, 20)},
		{"converse, cut between frames", join(converseStart, converseWord), retryable, used(0, 0, 0)},
		{"converse, cut within a frame", join(converseStart, converseWord[:50]), retryable, used(0, 0, 0)},
		{"converse, cut within a prelude", join(converseStart, converseWord, converseStop, converseUsage[:3]), retryable, used(0, 0, 0)},
		{"throttled", join(converseStart, converseWord, exception("throttlingException", `{"message":"Too many tokens, please wait before trying again."}`)), rateLimited, used(0, 0, 0)},
		{"no room", join(converseStart, exception("serviceUnavailableException", `{"message":"m"}`)), overloaded, used(0, 0, 0)},
		{"a model's fault", join(converseStart, exception("modelStreamErrorException", `{"message":"m"}`)), retryable, used(0, 0, 0)},
		{"a bad request", join(converseStart, exception("validationException", `{"message":"m"}`)), fatal, used(0, 0, 0)},
		{"too long", join(exception("validationException", `{"message":"Input is too long for requested model."}`)), fatal, used(0, 0, 0)},
		{"an exception without a document", join(converseStart, exception("internalServerException", "")), retryable, used(0, 0, 0)},
		{"an error of the protocol", join(converseStart, frame("", ":message-type", "error", ":error-code", "InternalError", ":error-message", "m")), retryable, used(0, 0, 0)},
		{"claude invoked", join(
			invoked(`{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`),
			invoked(`{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}`),
			invoked(`{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":25,"outputTokenCount":15}}`)), llmqueue.OutcomeServed, used(25, 15, 0)},
		{"claude invoked, cut", join(invoked(`{"type":"message_start","message":{"usage":{"input_tokens":25,"output_tokens":1}}}`)), retryable, used(0, 0, 0)},
		{"another model invoked", join(invoked(`{"generation":"Hi"}`), invoked(`{"generation":"","amazon-bedrock-invocationMetrics":{"inputTokenCount":7,"outputTokenCount":3}}`)), llmqueue.OutcomeServed, used(7, 3, 0)},
		{"no frames", []byte("\x00\x00\x00\x01 and so on, as no message can be"), llmqueue.OutcomeServed, used(0, 0, 0)},
		{"headers without end", append([]byte{0, 0, 1, 0, 0, 0, 0, 20, 1, 2, 3, 4}, bytes.Repeat([]byte{255}, 250)...), retryable, used(0, 0, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, n := range []int{1, 3, 64, 1 << 20} {
					var o llmqueue.Observation
					client := &http.Client{Transport: llmhttp.NewTransport(answers(func() *http.Response {
						return response(200, "Content-Type: application/vnd.amazon.eventstream", &pieces{c.body, n})
					}))}
					q := newQueue(t, func(ctx context.Context) (string, error) {
						req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://provider.example/model/m/converse-stream", nil)
						require.NoError(t, err)
						res, err := client.Do(req)
						require.NoError(t, err)
						got, err := io.ReadAll(res.Body)
						require.NoError(t, err)
						assert.Equal(t, c.body, got)
						o = llmqueue.Observed(ctx)
						return "", res.Body.Close()
					}, llmqueue.WithRetry(llmqueue.RetryPolicy{MaxAttempts: 1}))
					res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
					assert.Equal(t, c.want, o.Outcome, "in pieces of %d", n)
					assert.Equal(t, c.used, o.Usage, "in pieces of %d", n)
					assert.Equal(t, c.want == llmqueue.OutcomeServed, err == nil && res.Status == llmqueue.StatusCompleted, "the SDK returned nil: %v", err)
				}
			})
		})
	}
}
