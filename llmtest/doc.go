// Package llmtest is an LLM provider for tests: a server that speaks the
// provider's protocol and really enforces its limits, and fake processors for
// unit tests that need no server at all.
//
// # A server that refuses
//
// A test that never meets a 429 says nothing about how a program behaves when
// it does. [NewServer] starts a server that answers as a provider does, unary
// and streaming, and counts every request against the limits it was given:
//
//	srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(100_000)))
//	client := openai.NewClient(
//		option.WithBaseURL(srv.URL()),
//		option.WithHTTPClient(srv.Client()),
//		option.WithAPIKey("any"))
//
// The providers are [OpenAI], [AzureOpenAI], [Anthropic], [Bedrock], [Cohere],
// [Gemini], [Groq], [Mistral] and [Ollama]. Each has its own paths, streams, headers and errors,
// and its own way to enforce limits, which their comments tell with where it is
// known from. Options override it.
//
// All limits are checked in one step. A limit is enforced as a continuously
// refilled [TokenBucket], an exact [SlidingWindow], a [FixedWindow], a [Daily]
// reset at a zone's midnight or in slices ([Quantized]); it counts requests,
// tokens, input tokens or output tokens over any period, or requests in progress
// ([Concurrent]). The counting is this package's own: it shares no code with the
// queue that it is there to test.
//
// Tokens of text are counted as one per four bytes, rounded up. What of them is
// charged, and when, is up to [WithMaxTokensCharged], [WithActualUsage] and
// [WithBurndown]; whether requests count that were refused or failed, to
// [WithRefusedCounted] and [WithFailedFree]. [Server.SetLimits] changes limits
// while the server runs.
//
// # Believable answers
//
// Answers have a length, a time to the first token and a time per token, drawn
// from distributions ([WithOutputTokens], [WithLatency]) and a seed
// ([WithSeed]). The n-th time that a server accepts the same request body it
// gives the same answer, whatever else goes on. [WithLoad] makes a server slower
// the more it has to do, and then overloaded. [WithFaultShare] and
// [WithFaultScript] make some answers go wrong: see [Fault] for the ways.
//
// [Server.Stats] tells what the server accepted and refused and the most that
// any window saw; [Server.Arrivals] lists every request with its verdict, and
// [Server.WriteTimeline] writes both for people.
//
// # Over loopback and in memory
//
// A server listens on a loopback port, or with [InMemory] on nothing at all:
// then only [Server.Client] reaches it, through pipes. An in-memory server works
// inside a [testing/synctest] bubble, where a day of limits takes milliseconds
// and every run is the same. Programs use [Start], which needs no test.
//
// # Fake processors
//
// Code that only hands a processor to a queue needs no server. [FakeReply],
// [FakeError], [FakeSequence], [FakeDelay] and [FakeUsage] make processors that
// compose, and [Record] remembers what a processor was called with:
//
//	rec := llmtest.Record(llmtest.FakeDelay(time.Second, llmtest.FakeReply[Chat](Answer{"yes"})))
//	q, err := llmqueue.NewQueue("gpt-4o-mini", rec.Process, llmqueue.WithLimits(llmqueue.RPM(60)))
package llmtest
