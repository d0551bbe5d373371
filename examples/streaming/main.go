// Streaming shows answers as they are written, with OpenAI's Responses API. The processor hands
// out each chunk with Emit, and returns when its stream ends: until then the request holds its
// slot and its reservation. Who asks takes the chunks from a loop, on the screen or, with -listen,
// in an HTTP handler (serve.go) whose client may leave at any time.
//
// It runs against a simulator in this process, or, when OPENAI_API_KEY is set, against the real
// service:
//
//	go run ./examples/streaming
//	go run ./examples/streaming -listen localhost:8080 & curl -N 'localhost:8080/?prompt=Rain'
//	OPENAI_API_KEY=… go run ./examples/streaming -model gpt-4.1-mini
//
// A stream can fail after its status 200: with an event named error, with response.failed, or
// by ending too soon. The SDK returns no error then. And it can stop short, with
// response.incomplete, which is an answer. One of the simulator's answers fails in the middle.
// The queue does not try it again by itself, because half of it is on the screen; who reads
// along can: the program asks anew.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/examples/internal/chat"
	"github.com/llmqueue/llmqueue/examples/internal/program"
	"github.com/llmqueue/llmqueue/llmtest"
)

func main() { program.Main("streaming", run) }

// Chat is a prompt.
type Chat struct {
	Prompt    string `validate:"required"`
	MaxTokens int64  `validate:"gte=1"`
}

// EstimateUsage tells the queue what to reserve.
func (c Chat) EstimateUsage() llmqueue.Usage {
	return llmqueue.Usage{InputTokens: llmqueue.EstimateTokens(c.Prompt), OutputTokens: c.MaxTokens}
}

// Ending is what is left to say when the stream is over.
type Ending struct {
	Chunks     int
	FirstChunk time.Duration
	CutBy      string // why the answer is not whole: "max_output_tokens", or empty
}

// stream is the processor. The transport of the SDK's HTTP client has read the same events:
// the queue knows from it what an error means.
func stream(ctx context.Context, client openai.Client, req llmqueue.Request[Chat]) (end Ending, err error) {
	begin := time.Now()
	events := client.Responses.NewStreaming(ctx, responses.ResponseNewParams{
		Model:           req.ModelID,
		Input:           responses.ResponseNewParamsInputUnion{OfString: openai.String(req.Params.Prompt)},
		MaxOutputTokens: openai.Int(req.Params.MaxTokens),
	})
	defer events.Close()
	for events.Next() {
		switch event := events.Current(); event.Type {
		case "response.output_text.delta":
			if end.Chunks++; end.Chunks == 1 {
				end.FirstChunk = time.Since(begin)
			}
			if err := llmqueue.Emit(ctx, event.Delta); err != nil {
				return end, err // nobody takes chunks any more
			}
		case "response.completed":
			return end, nil
		case "response.incomplete":
			end.CutBy = event.Response.IncompleteDetails.Reason
			return end, nil
		case "response.failed":
			return end, fmt.Errorf("the response failed: %s: %s", event.Response.Error.Code, event.Response.Error.Message)
		case "error":
			return end, fmt.Errorf("the stream failed: %s: %s", event.Code, event.Message)
		}
	}
	return end, cmp.Or(events.Err(), errHalf)
}

// errHalf is the error of a stream that ends before its last event.
var errHalf = fmt.Errorf("the stream broke off: %w", io.ErrUnexpectedEOF)

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("streaming", flag.ContinueOnError)
	model := flags.String("model", chat.DefaultModel, "model to ask")
	listen := flags.String("listen", "", "address to serve answers at, as server-sent events; empty asks three questions")
	if err := program.Parse(flags, args, stdout); err != nil {
		return err
	}
	provider, err := chat.Open(chat.Simulator{
		Limits: []llmtest.Limit{llmtest.RPM(500), llmtest.TPM(100_000)},
		Options: []llmtest.Option{
			llmtest.WithLatency(llmtest.Latency{FirstToken: 200 * time.Millisecond, PerToken: 20 * time.Millisecond, Spread: 0.2}),
			llmtest.WithOutputTokens(40, 0.3),
			llmtest.WithFaultScript(llmtest.Fault{}, llmtest.Fault{Kind: llmtest.FaultStream}), // the second fails in the middle
		},
	})
	if err != nil {
		return err
	}
	defer provider.Close()
	fmt.Fprintf(stdout, "Answered by %s.", provider)

	queue, err := llmqueue.NewQueue(*model,
		func(ctx context.Context, req llmqueue.Request[Chat]) (Ending, error) {
			return stream(ctx, provider.Client, req)
		},
		llmqueue.WithLimits(llmqueue.RPM(500), llmqueue.TPM(100_000), llmqueue.Concurrent(32)))
	if err != nil {
		return err
	}
	defer queue.Shutdown(context.WithoutCancel(ctx))
	if *listen != "" {
		fmt.Fprintln(stdout)
		return serve(ctx, queue, *listen)
	}

	for _, question := range []Chat{
		{"Write two sentences about the sea.", 200},
		{"Write two sentences about a mountain.", 200},
		{"Write a long story about a desert.", 16},
	} {
		res, shown, err := show(ctx, queue, question, stdout)
		if err != nil && shown { // only a reader can tell whether it is of use to ask anew
			fmt.Fprintf(stdout, "\n[%v]", err)
			res, _, err = show(ctx, queue, question, stdout)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\n(%d chunks, the first after %v; streamed for %v, %d tokens", res.Result.Chunks,
			ms(res.Result.FirstChunk), ms(res.ProcessingTime()), res.Usage.Total())
		if res.Result.CutBy != "" {
			fmt.Fprintf(stdout, ", cut short by %s", res.Result.CutBy)
		}
		fmt.Fprint(stdout, ")")
	}
	fmt.Fprintln(stdout)
	return nil
}

// show shows one answer as it is written, and reports whether any of it came.
func show(ctx context.Context, queue *llmqueue.Queue[Chat, Ending], question Chat, stdout io.Writer) (res llmqueue.Response[Ending], shown bool, err error) {
	answer := llmqueue.Stream[string](ctx, queue, llmqueue.NewRequest(queue.ModelID(), question))
	for text, err := range answer.Chunks() {
		if err != nil {
			break
		}
		if !shown {
			fmt.Fprintf(stdout, "\n\n> %s\n", question.Prompt)
			shown = true
		}
		fmt.Fprint(stdout, text)
	}
	res, err = answer.Response()
	return res, shown, err
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
