// Package llmhttp lets a queue understand what LLM providers say on the wire: their
// rate limits, what their errors mean, and what each call used.
//
// Put a [Transport] into the http.Client of any SDK, and pass the processor's context
// on. That is all:
//
//	client := openai.NewClient(
//		option.WithHTTPClient(&http.Client{Transport: llmhttp.NewTransport(nil)}),
//		option.WithMaxRetries(0)) // the queue retries
//
//	queue, err := llmqueue.NewQueue("gpt-4o-mini",
//		func(ctx context.Context, req llmqueue.Request[Chat]) (string, error) {
//			answer, err := client.Chat.Completions.New(ctx, …)
//			…
//			return answer.Choices[0].Message.Content, nil // errors need no marks
//		},
//		llmqueue.WithLearnedLimits())
//
// The transport only observes: a request goes out as it is, an answer's bytes are
// handed on as they arrive, none held back. It tells the queue, with
// [llmqueue.Observe],
//
//   - when the headers are there, the provider's limits, what is left of them, and
//     what a failure means: wait so long, go slower, use less at once, stop, try
//     again, try another endpoint, or never again;
//   - with each read of the body, that a part of the answer has come. Comments, blank
//     lines and pings, which keep a connection open, are no part of it;
//   - when the body ends, the tokens used, from JSON, server-sent events, lines of
//     JSON and Amazon's frames, an error that came within the answer, and that an answer
//     broke off.
//
// A processor that got nil from its SDK asks with [llmqueue.Observed] what was told. The
// queue does so in any case: a refused or broken answer is not served.
//
// # Whose fault
//
// A key, an account or a model that is refused is [llmqueue.OutcomeElsewhere]: another
// endpoint may serve the request. That is what 401, 403 and 404 mean, and a 400 that
// names one of them. [llmqueue.OutcomeFatal] is for what the request itself is to blame
// for: a malformed or too long request, one that moderation stops or that asks for more than
// its limit or the credit that is left, a file or a conversation that does not exist.
//
// [llmqueue.OutcomeQuotaExhausted] needs proof: the code of a provider that means it so, or
// words that leave no doubt. A limit that passes is often said in the words of billing, and to
// take it for an empty account would stop everything.
//
// # Answers that break off
//
// An answer broke off when reading it fails, when its JSON ends in the middle, and when a
// stream of OpenAI, Anthropic, Gemini, Cohere, Bedrock or Ollama ends without what they always
// send last. That is a passing fault, although the headers said that the call was
// served. So is a page of HTML in the place of an answer, and nothing where JSON was promised.
// A stream of a kind that the package does not recognize may end as it likes. A
// reader that closes the body early or cancels its context says nothing about the answer.
//
// A call outside a queue's attempt passes through untouched.
//
// # Calls that wait by themselves
//
// A [QueueTransport] is for calls that no processor makes, such as those that an agent framework
// hides: one run makes several, with tools in between, and each of them should wait, not the run.
// In the client of an SDK or a framework it takes a permit for each call of a model, waits for
// it in that model's queue, and tries again what the queue tries again:
//
//	client := openai.NewClient(option.WithHTTPClient(&http.Client{
//		Transport: llmhttp.NewQueueTransport(manager, nil),
//	}))
//
// [WithClaim] says for whom a call is made and how long it may wait. A service answers its own
// clients with [StatusOf].
//
// It understands OpenAI, Azure OpenAI, Anthropic, Gemini, Vertex AI, Bedrock, Groq, Mistral,
// Together, Cohere, OpenRouter, DeepSeek, xAI, Moonshot, Zhipu, MiniMax, DashScope,
// Volcengine, Baidu, vLLM, llama.cpp and Ollama, and who speaks as one of them does.
// docs/guides/providers.md has tables of all of it, made from those that the package goes by:
// a provider is a row in them. What it does not understand says nothing: the status decides.
//
// # Bounds
//
// An answer's own bytes are never kept, whatever its size: of each document the
// transport keeps the few members that count, at most 64 KiB. Of a failure it reads up
// to 64 KiB before it hands it on, because SDKs close those bodies unread.
//
// Two things stay unread: the usage in a body that the client itself asked to be
// compressed (net/http's own compression is no obstacle), and in OpenAI's streams without
// stream_options.include_usage. There the
// reservation stands, unless the processor calls [llmqueue.ReportUsage], which wins over
// what was observed in any case.
//
// A call that a timeout of the client's own ended, such as http.Client.Timeout, is a
// passing fault, as an attempt is that llmqueue.WithTimeout ends: whether to give up is
// judged by the queue's request.
//
// # Alone
//
// [ParseLimits], [ParseError], [ParseDelay] and [ParseUsage] read the same from
// headers and bodies that came another way, [ParseRequest] what a request asks. No input makes them panic, or wait longer
// than 31 days.
package llmhttp
