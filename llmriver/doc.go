// Package llmriver makes the requests of a llmqueue.Manager durable: they are jobs of River
// (github.com/riverqueue/river) in an SQLite file or in PostgreSQL, and survive the process.
//
//	manager := llmqueue.NewManager[Chat, Answer](…)  // as before
//	jobs, err := llmriver.Open(ctx, llmriver.SQLite("jobs.db"), manager)
//	resp, err := jobs.Submit(ctx, req)               // instead of manager.Submit
//
// Requests, responses, processors and errors are the same; P and T must go through JSON and
// back. A job is worked through the manager's own queue, so its limits, priorities,
// retries, pauses, breakers and events hold. With PostgreSQL several processes share the jobs;
// each keeps the limits of its own manager.
//
// Delivery is at least once: a job whose process dies is run again, also when its provider had
// answered but the answer was not stored yet. Key gives a processor a key that stays the
// same, for providers and tables that know idempotency.
package llmriver
