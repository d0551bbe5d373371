package llmtest

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const (
	bedrockModel = "/model/anthropic.claude-sonnet-4-5-20250929-v1:0/"
	converse     = bedrockModel + "converse"
)

// turn is a request with so many input tokens, and more members.
func turn(input int, more string) string {
	return fmt.Sprintf(`{"messages":[{"role":"user","content":[{"text":"%s"}]}]%s}`, strings.Repeat("word", input), more)
}

func upTo(maxTokens int) string { return fmt.Sprintf(`,"inferenceConfig":{"maxTokens":%d}`, maxTokens) }

// frames takes a stream apart and checks its lengths and checksums. Each frame is
// its message type, its event or exception type, and its payload.
func frames(t *testing.T, stream string) (list []string) {
	t.Helper()
	for rest := []byte(stream); len(rest) > 0; {
		if len(rest) < 16 {
			t.Fatalf("%d bytes are no frame", len(rest))
		}
		total, headers := binary.BigEndian.Uint32(rest), binary.BigEndian.Uint32(rest[4:])
		if int(total) > len(rest) || headers > total-16 {
			t.Fatalf("a frame of %d bytes with headers of %d in %d bytes", total, headers, len(rest))
		}
		if crc32.ChecksumIEEE(rest[:8]) != binary.BigEndian.Uint32(rest[8:]) || crc32.ChecksumIEEE(rest[:total-4]) != binary.BigEndian.Uint32(rest[total-4:]) {
			t.Fatal("a checksum is wrong")
		}
		values := map[string]string{}
		for h := rest[12 : 12+headers]; len(h) > 0; {
			name := string(h[1 : 1+h[0]])
			h = h[1+h[0]:]
			if h[0] != 7 {
				t.Fatalf("header %s has type %d", name, h[0])
			}
			n := binary.BigEndian.Uint16(h[1:])
			values[name] = string(h[3 : 3+n])
			h = h[3+n:]
		}
		kind := values[":message-type"]
		if values[":content-type"] != "application/json" {
			t.Errorf("headers %v", values)
		}
		list = append(list, kind+" "+values[":"+kind+"-type"]+" "+string(rest[12+headers:total-4]))
		rest = rest[total:]
	}
	return list
}

func TestSpeaksLikeBedrock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Bedrock(), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: 250 * time.Millisecond}))
		res, body := send(t, s, converse, turn(100, ""))
		if res.StatusCode != 200 || !strings.HasPrefix(body, `{"metrics":{"latencyMs":1500},"output":{"message":{"role":"assistant","content":[{"text":"`) ||
			!strings.HasSuffix(body, `"}]}},"stopReason":"end_turn","usage":{"inputTokens":100,"outputTokens":3,"totalTokens":103,"cacheReadInputTokens":0,"cacheWriteInputTokens":0}}`) {
			t.Errorf("%s: %s", res.Status, body)
		}
		if res.Header.Get("X-Amzn-Requestid") == "" {
			t.Errorf("headers %v", res.Header)
		}
		res, body = send(t, s, converse+"-stream", turn(100, upTo(2)))
		got := frames(t, body)
		wantHeaders(t, res.Header, "content-type", "application/vnd.amazon.eventstream")
		if len(got) != 6 || got[0] != `event messageStart {"role":"assistant"}` || !strings.HasPrefix(got[1], `event contentBlockDelta {"contentBlockIndex":0,"delta":{"text":"`) ||
			got[3] != `event contentBlockStop {"contentBlockIndex":0}` || got[4] != `event messageStop {"stopReason":"max_tokens"}` ||
			got[5] != `event metadata {"metrics":{"latencyMs":1250},"usage":{"inputTokens":100,"outputTokens":2,"totalTokens":102,"cacheReadInputTokens":0,"cacheWriteInputTokens":0}}` {
			t.Errorf("frames %q", got)
		}
		res, body = send(t, s, bedrockModel+"invoke", `{"anthropic_version":"bedrock-2023-05-31","max_tokens":2,"messages":[{"role":"user","content":"wordword"}]}`)
		if !strings.Contains(body, `"usage":{"input_tokens":2,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":2`) {
			t.Errorf("invoke: %s", body)
		}
		wantHeaders(t, res.Header, "x-amzn-bedrock-input-token-count", "2", "x-amzn-bedrock-output-token-count", "2", "x-amzn-bedrock-invocation-latency", "1250")
	})
}

// TestBedrockInvokeStream hands on what Anthropic says, in chunks.
func TestBedrockInvokeStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Bedrock(), InMemory(), WithOutputTokens(3, 0), WithLatency(Latency{FirstToken: time.Second, PerToken: 250 * time.Millisecond}),
			WithFaultScript(Fault{}, Fault{Kind: FaultStream, Status: 429}))
		const body = `{"anthropic_version":"bedrock-2023-05-31","max_tokens":2,"messages":[{"role":"user","content":"wordword"}]}`
		res, stream := send(t, s, bedrockModel+"invoke-with-response-stream", body)
		wantHeaders(t, res.Header, "content-type", "application/vnd.amazon.eventstream", "x-amzn-bedrock-output-token-count", "")
		var said []string
		for _, f := range frames(t, stream) {
			payload, ok := strings.CutPrefix(f, "event chunk ")
			if !ok {
				t.Fatalf("frame %q", f)
			}
			said = append(said, string(decode[struct{ Bytes []byte }](t, payload).Bytes))
		}
		if len(said) != 8 || !strings.HasPrefix(said[0], `{"message":{"id":"msg_`) || !strings.Contains(said[6], `"output_tokens":2}`) ||
			said[7] != `{"amazon-bedrock-invocationMetrics":{"firstByteLatency":1000,"inputTokenCount":2,"invocationLatency":1250,"outputTokenCount":2},"type":"message_stop"}` {
			t.Errorf("the model says %q", said)
		}
		_, stream = send(t, s, bedrockModel+"invoke-with-response-stream", body)
		if got := frames(t, stream); !strings.HasPrefix(got[len(got)-1], "exception throttlingException ") {
			t.Errorf("frames %q", got)
		}
	})
}

// TestBedrockCaches reserves cached input and gives it back, as documented.
func TestBedrockCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Bedrock(TPM(10_000)), InMemory(), WithOutputTokens(10, 0), WithLatency(Latency{}))
		body := fmt.Sprintf(`{"system":[{"text":"%s"},{"cachePoint":{"type":"default"}}],"messages":[{"role":"user","content":[{"text":"word"}]}]}`, strings.Repeat("word", 2000))
		for _, want := range []string{
			`"usage":{"inputTokens":1,"outputTokens":10,"totalTokens":2011,"cacheReadInputTokens":0,"cacheWriteInputTokens":2000}}`,
			`"usage":{"inputTokens":1,"outputTokens":10,"totalTokens":2011,"cacheReadInputTokens":2000,"cacheWriteInputTokens":0}}`,
		} {
			if _, got := send(t, s, converse, body); !strings.HasSuffix(got, want) {
				t.Errorf("got %s\nwant %s", got, want)
			}
		}
		if a := s.Arrivals(); a[0].Charged != 2011 || a[1].Charged != 11 {
			t.Errorf("charged %d and %d, want 2011 and 11", a[0].Charged, a[1].Charged)
		}
	})
}

// TestBedrockReserves holds maxTokens until the answer ends, and then charges what
// the burndown makes of the output.
func TestBedrockReserves(t *testing.T) {
	reserve := func(t *testing.T, charged int64, opts ...Option) {
		s := NewServer(t, Bedrock(TPM(1000)), append(opts, InMemory(), WithOutputTokens(10, 0), WithLatency(Latency{FirstToken: time.Second}))...)
		first := make(chan int)
		go func() {
			res, _ := send(t, s, converse, turn(100, upTo(900)))
			first <- res.StatusCode
		}()
		synctest.Wait()
		res, body := send(t, s, converse, turn(1, upTo(1)))
		if res.StatusCode != 429 || body != `{"message":"Too many tokens, please wait before trying again."}` {
			t.Errorf("while all is reserved: %s %s", res.Status, body)
		}
		wantHeaders(t, res.Header, "x-amzn-errortype", "ThrottlingException", "retry-after", "", "x-ratelimit-limit-tokens", "")
		if code := <-first; code != 200 {
			t.Errorf("status %d", code)
		}
		if res, body := send(t, s, converse, turn(100, upTo(700))); res.StatusCode != 200 {
			t.Errorf("once it is settled: %s %s", res.Status, body)
		}
		if a := s.Arrivals(); a[0].Charged != charged {
			t.Errorf("charged %d, want %d", a[0].Charged, charged)
		}
	}
	synctest.Test(t, func(t *testing.T) { reserve(t, 110) })
	synctest.Test(t, func(t *testing.T) { reserve(t, 150, WithBurndown(5)) })
}

func TestBedrockErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Bedrock(RPM(9)), InMemory(), WithLatency(Latency{}), WithKey("AKID"), WithFaultScript(
			Fault{Status: 429}, Fault{Status: 503}, Fault{Status: 500}, Fault{Status: 403}, Fault{Status: 404}, Fault{Status: 408}, Fault{Status: 424}, Fault{Kind: FaultQuota}))
		sign := []string{"Authorization", "AWS4-HMAC-SHA256 Credential=AKID/20251201/us-east-1/bedrock/aws4_request, SignedHeaders=host, Signature=0"}
		for _, tt := range []struct {
			path, body string
			status     int
			exception  string
		}{
			{converse, turn(1, ""), 429, "ThrottlingException"},
			{converse, turn(1, ""), 503, "ServiceUnavailableException"},
			{converse, turn(1, ""), 500, "InternalServerException"},
			{converse, turn(1, ""), 403, "AccessDeniedException"},
			{converse, turn(1, ""), 404, "ResourceNotFoundException"},
			{converse, turn(1, ""), 408, "ModelTimeoutException"},
			{converse, turn(1, ""), 424, "ModelErrorException"},
			{converse, turn(1, ""), 400, "ServiceQuotaExceededException"},
			{converse, turn(1, ""), 200, ""},
			{converse, turn(1, ""), 429, "ThrottlingException"},
			{converse, `{`, 400, "ValidationException"},
			{converse, `{}`, 400, "ValidationException"},
			{converse, turn(1, upTo(0)), 400, "ValidationException"},
			{bedrockModel + "invoke", `{"messages":[{"content":"a"}]}`, 400, "ValidationException"},
			{converse, "", 405, "UnknownOperationException"},
			{"/model/m", turn(1, ""), 404, "UnknownOperationException"},
			{"/model/arn%3Aaws%3Abedrock/x/unknown", turn(1, ""), 404, "UnknownOperationException"},
		} {
			res, body := send(t, s, tt.path, tt.body, sign...)
			var e struct{ Message *string }
			if err := json.Unmarshal([]byte(body), &e); res.StatusCode != tt.status || err != nil || tt.status != 200 && e.Message == nil {
				t.Errorf("%s %s: %s %s, want %d", tt.path, tt.body, res.Status, body, tt.status)
			}
			wantHeaders(t, res.Header, "x-amzn-errortype", tt.exception)
		}
		res, body := send(t, s, converse, turn(1, ""), "Authorization", "Bearer wrong")
		if res.StatusCode != http.StatusForbidden || body != `{"message":"The security token included in the request is invalid."}` {
			t.Errorf("%s: %s", res.Status, body)
		}
		wantHeaders(t, res.Header, "x-amzn-errortype", "UnrecognizedClientException")
	})
}

// TestBedrockHasNoCapacity turns away what is too much at once.
func TestBedrockHasNoCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(t, Bedrock(TPD(100)), InMemory(), WithLatency(Latency{FirstToken: time.Second}), WithLoad(Load{Capacity: 1}))
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() { send(t, s, converse, turn(90, "")) })
		synctest.Wait()
		res, body := send(t, s, "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Ainference-profile%2Fm/converse", turn(1, ""))
		if res.StatusCode != 503 || s.Arrivals()[1].Model != "arn:aws:bedrock:us-east-1::inference-profile/m" {
			t.Errorf("%s: %s %+v", res.Status, body, s.Arrivals()[1])
		}
		wantHeaders(t, res.Header, "x-amzn-errortype", "ServiceUnavailableException")
		if res, body := send(t, s, converse, turn(90, "")); res.StatusCode != 429 || !strings.Contains(body, "Too many tokens per day, please wait") {
			t.Errorf("%s: %s", res.Status, body)
		}
	})
}

// TestBedrockExceptions breaks streams in their middle.
func TestBedrockExceptions(t *testing.T) {
	for status, want := range map[int]string{
		0:   "serviceUnavailableException",
		429: "throttlingException",
		424: "modelStreamErrorException",
		500: "internalServerException",
		400: "validationException",
	} {
		s := NewServer(t, Bedrock(), InMemory(), WithOutputTokens(4, 0), WithFaultScript(Fault{Kind: FaultStream, Status: status}))
		res, body := send(t, s, converse+"-stream", turn(1, ""))
		got := frames(t, body)
		if res.StatusCode != 200 || len(got) != 4 || !strings.HasPrefix(got[3], "exception "+want+` {"message":"`) {
			t.Errorf("%d: %s %q, want %s", status, res.Status, got, want)
		}
	}
}
