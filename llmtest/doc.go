// Package llmtest is an LLM provider for tests: a server that speaks the
// provider's protocol and really enforces its limits, and fake processors for
// unit tests that need no server at all.
//
// # A server that refuses
//
// A test that never meets a 429 says nothing about how a program behaves when
// it does. [NewServer] starts a server that answers as OpenAI's chat
// completions do, unary and streaming, and counts every request against the
// limits it was given:
//
//	srv := llmtest.NewServer(t, llmtest.OpenAI(llmtest.RPM(500), llmtest.TPM(100_000)))
//	client := openai.NewClient(
//		option.WithBaseURL(srv.URL()),
//		option.WithHTTPClient(srv.Client()),
//		option.WithAPIKey("any"))
//
// All limits are checked in one step. A request that breaks one is answered
// with 429, Retry-After and the provider's error body, and charges nothing
// unless [WithRefusedCounted] says so. Each limit is enforced as a continuously
// refilled [TokenBucket] (the default), an exact [SlidingWindow] or a
// [FixedWindow]; limits count requests or tokens over any period, or requests
// in progress ([Concurrent]). The counting is this package's own: it shares no
// code with the queue that it is there to test.
//
// Tokens are charged when a request arrives: one per four bytes of its message
// contents, rounded up, plus its max_completion_tokens or max_tokens.
// [WithActualUsage] charges the answer's real length when it ends instead.
//
// # Believable answers
//
// Answers have a length, a time to the first token and a time per token, drawn
// from distributions ([WithOutputTokens], [WithLatency]) and a seed
// ([WithSeed]). The n-th time that a server accepts the same request body it
// gives the same answer, whatever else goes on. [WithFaultShare] and
// [WithFaultScript] make some answers fail, to see retries work.
//
// [Server.Stats] tells what the server accepted and refused and the most that
// any window saw; [Server.Arrivals] lists every request with its verdict.
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
