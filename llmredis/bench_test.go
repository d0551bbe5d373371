package llmredis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/llmqueue/llmqueue"
)

// single is what a limiter of one key does in one round trip per request: the generic
// cell rate algorithm, which knows neither settlements nor several limits.
var single = redis.NewScript(`
local now = redis.call('TIME')
now = now[1] + now[2] / 1000000
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local step = ARGV[2] / ARGV[1]
if tat + step - now > tonumber(ARGV[2]) then return 0 end
redis.call('SET', KEYS[1], tat + step, 'EX', 120)
return 1`)

// commands is how many commands Redis has worked on so far, and the processor time it
// took.
func commands(t testing.TB, client *redis.Client) (n int64, cpu float64) {
	t.Helper()
	text, err := client.InfoMap(context.Background(), "stats", "cpu").Result()
	require.NoError(t, err)
	n, err = strconv.ParseInt(text["Stats"]["total_commands_processed"], 10, 64)
	require.NoError(t, err)
	for _, f := range []string{"used_cpu_user_main_thread", "used_cpu_sys_main_thread"} {
		v, err := strconv.ParseFloat(text["CPU"][f], 64)
		require.NoError(t, err)
		cpu += v
	}
	return n, cpu
}

// report adds what Redis did per operation.
func report(b *testing.B, client *redis.Client, n int64, cpu float64) {
	after, cpuAfter := commands(b, client)
	b.ReportMetric(float64(after-n-1)/float64(b.N), "commands/op")
	b.ReportMetric(1e6*(cpuAfter-cpu)/float64(b.N), "redis-µs/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

// Every reservation in an exchange of its own: a lease for one request that is used and
// told with the next one; two limits over the same period, which are far from full.
// 64 processes ask at once, to keep Redis busy.
func BenchmarkReservationsOnRedis(b *testing.B) {
	server := private(b)
	client := redis.NewClient(&redis.Options{Addr: server.address(), PoolSize: 64})
	defer client.Close()
	limits := []llmqueue.Limit{llmqueue.RPM(1 << 40), llmqueue.TPM(1 << 45)}
	s := &set{limiter: New(client, "x", limits...), tag: "bench", ttl: 5 * time.Second, mailbox: "m", longest: time.Minute}
	s.rules, s.slots, s.lease = rules(limits, -1)
	keys := []string{"{bench}", "{bench}:p", "{bench}:w", "{bench}:l"}
	b.Run("exchange", func(b *testing.B) {
		b.SetParallelism(32)
		n, cpu := commands(b, client)
		b.RunParallel(func(pb *testing.PB) {
			who := newIdentity()
			x := &exchange{mode: 2, sent: time.Now(), need: amounts{1, 100, 60, 40}, want: amounts{1, 100, 60, 40}}
			for pb.Next() {
				who.seq++
				got, err := script.Run(context.Background(), client, keys, s.args(x, &who, 0)...).Slice()
				if err != nil || got[0] != "ok" {
					b.Errorf("%v %v", got, err)
					return
				}
				who.gen, who.rev = got[3].(string), number(got, 4)
				ends := number(got, 10)
				x.changes = append(x.changes[:0], change{ends, amounts{-1, -100, -60, -40}}, change{0, amounts{1, 90, 60, 30}})
			}
		})
		report(b, client, n, cpu)
	})
	b.Run("single key", func(b *testing.B) {
		b.SetParallelism(32)
		n, cpu := commands(b, client)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := single.Run(context.Background(), client, []string{"single"}, 1e9, 60).Err(); err != nil {
					b.Error(err)
					return
				}
			}
		})
		report(b, client, n, cpu)
	})
}

// Whole requests through a queue, 256 at a time, in one process: with leases, and with
// one key asked in the processor before each call.
func BenchmarkRequests(b *testing.B) {
	server := private(b)
	client := server.client(b)
	run := func(b *testing.B, process llmqueue.Processor[int, int], opts ...llmqueue.Option) {
		q, err := llmqueue.NewQueue("m", process, append(opts, llmqueue.WithoutDeadlineCheck(), llmqueue.WithHistory(0, 0))...)
		require.NoError(b, err)
		_, err = q.Do(b.Context(), 1)
		require.NoError(b, err)
		n, cpu := commands(b, client)
		var failed atomic.Int64
		b.SetParallelism(128)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := q.Do(b.Context(), 1); err != nil {
					failed.Add(1)
				}
			}
		})
		report(b, client, n, cpu)
		require.Zero(b, failed.Load())
		require.NoError(b, q.Shutdown(b.Context()))
	}
	b.Run("leases", func(b *testing.B) {
		l := New(client, "leases"+strconv.Itoa(b.N), llmqueue.RPM(1<<40), llmqueue.TPM(1<<45))
		run(b, func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
			llmqueue.ReportUsage(ctx, llmqueue.Usage{InputTokens: 60, OutputTokens: 30})
			return 0, nil
		}, llmqueue.WithSharedLimits(l), llmqueue.WithEstimator(func(llmqueue.Request[int]) llmqueue.Usage {
			return llmqueue.Usage{InputTokens: 60, OutputTokens: 40}
		}))
		require.NoError(b, l.Close(b.Context()))
	})
	b.Run("single key", func(b *testing.B) {
		run(b, func(ctx context.Context, _ llmqueue.Request[int]) (int, error) {
			return 0, single.Run(ctx, client, []string{"one"}, 1e9, 60).Err()
		}, llmqueue.WithUnlimited())
	})
}

// TestCosts measures what a set and its members cost Redis, and keeps the figures of the
// guide within bounds.
func TestCosts(t *testing.T) {
	t.Parallel()
	server := private(t)
	client := server.client(t)
	memory := func() int64 {
		text, err := client.InfoMap(t.Context(), "memory").Result()
		require.NoError(t, err)
		n, err := strconv.ParseInt(text["Memory"]["used_memory"], 10, 64)
		require.NoError(t, err)
		return n
	}
	limits := []llmqueue.Limit{llmqueue.RPM(1 << 40), llmqueue.TPM(1 << 45)}
	s := &set{limiter: New(client, "x", limits...), tag: "costs", ttl: 5 * time.Second, mailbox: "m", longest: time.Minute}
	s.rules, s.slots, s.lease = rules(limits, -1)
	tag := "{costs}"
	keys := []string{tag, tag + ":p", tag + ":w", tag + ":l"}
	send := func(x *exchange, who *identity, now int64) []any {
		who.seq++
		got, err := virtual.Run(t.Context(), client, keys, append(s.args(x, who, 0), strconv.FormatInt(now, 10))...).Slice()
		require.NoError(t, err)
		require.Equal(t, "ok", got[0])
		return got
	}
	const start, members = 1_700_000_000_000, 1000
	first := newIdentity()
	send(&exchange{}, &first, start)
	base := memory()
	for range members {
		who := newIdentity()
		send(&exchange{}, &who, start)
	}
	perMember := (memory() - base) / members
	base = memory()
	for i := range int64(buckets) {
		send(&exchange{mode: 2, need: amounts{1, 1000, 600, 400}, want: amounts{1, 1000, 600, 400}}, &first, start+2000+i*60_000/buckets)
	}
	perWindow := memory() - base
	t.Logf("a member takes %d bytes of Redis, a full window %d", perMember, perWindow)
	for _, limit := range []struct {
		what      string
		have, max int64
	}{{"a member", perMember, 1000}, {"a full window", perWindow, 400_000}} {
		if limit.have > limit.max {
			t.Errorf("%s takes %d bytes of Redis, the guide says less than %d", limit.what, limit.have, limit.max)
		}
	}
	keysLeft, err := client.Keys(t.Context(), "*").Result()
	require.NoError(t, err)
	for _, k := range keysLeft {
		if !strings.HasPrefix(k, tag) {
			t.Errorf("key %q is outside the set's hash slot", k)
		}
		if ttl := client.PTTL(t.Context(), k).Val(); ttl <= 0 {
			t.Errorf("key %q never expires: %s", k, fmt.Sprint(ttl))
		}
	}
}
