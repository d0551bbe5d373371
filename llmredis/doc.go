// Package llmredis holds limits for many processes that share an API key, in Redis
// (6.2 or later) or Valkey.
//
//	client := redis.NewClient(&redis.Options{Addr: "localhost:6379"})
//	limits := llmredis.New(client, "openai", llmqueue.RPM(500), llmqueue.TPM(200_000), llmqueue.Concurrent(64))
//	queue, err := llmqueue.NewQueue("gpt-4.1-mini", ask, llmqueue.WithSharedLimits(limits))
//
// Every process that uses the same prefix and model draws from the same limits. In no
// window of a period is the sum of what all processes were granted above the amount,
// by the server's clock; concurrency is counted in slots. One script checks every limit
// and takes from all or from none.
//
// # Leases
//
// A process takes quota in leases, as large as what it used lately, and starts requests
// from them without asking. What a lease holds is charged as of its end, 0.1 to 2 s
// later, until the process tells when it was used; what was not used is given back. Exchanges
// are numbered, so that one whose reply was lost is repeated and changes nothing.
//
// Processes that find no room wait in one line, in order of arrival. The first knows when
// room appears, or is told when somebody gives some back; it takes its part, and the
// next is told. Nobody asks again and again, but who waits says every two seconds that it
// is still there.
//
// # When Redis is gone
//
// What is leased is used until it ends, then requests wait, or go on with a share of the
// limits if Options.LocalShare says so. A process that waits tries again four times a
// second.
//
// When Redis is back with what it knew, all goes on. If it has lost something that any
// living process knows of, every limit counts as used up for one period, a daily
// one until midnight: only then is it certain that nothing is spent twice. A Redis that
// writes to disk (appendonly) and is stopped properly loses nothing.
//
// The limits go by the server's clock. Set back it goes on counting from where it was;
// set forward, what is charged leaves early by as much.
package llmredis
