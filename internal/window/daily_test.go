package window

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A day begins when the date changes, wherever and whenever the clocks are
// changed: hour by hour through years that have odd midnights.
func TestDayBeginsWhenTheDateChanges(t *testing.T) {
	for zone, year := range map[string]int{
		"UTC":                 2026,
		"America/New_York":    2026,
		"America/Sao_Paulo":   2018, // midnight does not exist
		"America/Havana":      2026, // midnight comes twice
		"Asia/Beirut":         2026,
		"Australia/Lord_Howe": 2026, // half an hour
		"Pacific/Apia":        2011, // December 30 does not exist
		"Asia/Kathmandu":      2026,
	} {
		t.Run(zone, func(t *testing.T) {
			loc := mustLoad(zone)
			margin := 90 * time.Second
			begin := time.Date(year, 1, 1, 12, 0, 0, 0, time.UTC)
			d := newDay(Limit{Daily: loc, Margin: margin}, begin.UnixNano())
			date := func(wall int64) string {
				return time.Unix(0, wall-int64(margin)).In(loc).Format(time.DateOnly)
			}
			for at := begin; at.Year() <= year; at = at.Add(time.Hour) {
				now := at.UnixNano()
				reset := d.reset
				require.Equal(t, now >= reset, d.over(now), "at %v", at)
				require.LessOrEqual(t, d.start, now)
				require.Greater(t, d.reset, now)
				fresh := newDay(Limit{Daily: loc, Margin: margin}, now)
				require.Equal(t, fresh.reset, d.reset, "at %v", at)
				require.Equal(t, d.reset, d.nth(1))
				if zone == "America/Havana" {
					continue // which of two midnights counts is not certain
				}
				require.Greater(t, date(d.reset), date(d.reset-1), "at %v", at)
				require.Greater(t, date(d.start), date(d.start-1), "at %v", at)
				require.Equal(t, date(d.start), date(now))
			}
		})
	}
}

func TestDailyLimit(t *testing.T) {
	evening := time.Date(2026, 3, 7, 23, 0, 0, 0, newYork)
	midnight := time.Date(2026, 3, 8, 0, 0, 1, 0, newYork) // with the margin
	s := NewSet(evening, []Limit{{Kind: Tokens, Amount: 10, Period: 24 * time.Hour, Margin: time.Second, Daily: newYork}})
	s.Add(evening.Add(-24*time.Hour), tokens(5)) // yesterday's
	r := reserve(t, s, evening, tokens(10))
	next, limit := s.Next(evening, tokens(1))
	require.True(t, next.Equal(midnight), "%v", next)
	require.Zero(t, limit)
	_, ok := s.Reserve(midnight.Add(-1), tokens(1))
	require.False(t, ok)

	reserve(t, s, midnight, tokens(4))
	require.False(t, s.Settle(midnight, r, tokens(1)), "yesterday's refund is nothing today")
	require.Equal(t, []int64{6}, room(s, midnight))
	s.Settle(midnight, r, tokens(12))
	require.Equal(t, []int64{4}, room(s, midnight), "yesterday's overrun is charged today")
	next, _ = s.Next(midnight, tokens(5))
	require.Equal(t, 23*time.Hour, next.Sub(midnight), "the clocks go forward")
	require.Equal(t, 47*time.Hour, forecast(s, midnight, tokens(14), tokens(1)).Sub(midnight))
}

func TestWallClockSetBackBeginsNoDayAgain(t *testing.T) {
	night := time.Date(2026, 6, 2, 0, 0, 10, 0, time.UTC)
	limits := []Limit{{Kind: Requests, Amount: 1, Period: 24 * time.Hour, Daily: time.UTC}}
	s := NewSet(night.Add(-time.Minute), limits)
	reserve(t, s, night, tokens(1))
	back := night.Add(-20 * time.Second)
	require.Equal(t, []int64{0}, room(s, back))
	s.SetLimits(back, limits)
	require.Equal(t, []int64{0}, room(s, night), "midnight comes a second time")

	// Set back by a month, the day of the new date is the one that ends next.
	june := night.AddDate(0, -1, 0)
	require.Equal(t, []int64{0}, room(s, june))
	next, _ := s.Next(june, tokens(1))
	require.Equal(t, time.Date(2026, 5, 3, 0, 0, 0, 0, time.UTC), next)
}

// From sliding to daily, and back: what started since midnight is known.
func TestSlidingToDailyAndBack(t *testing.T) {
	sliding := []Limit{{Kind: Tokens, Amount: 100, Period: 24 * time.Hour}}
	daily := []Limit{{Kind: Tokens, Amount: 100, Period: 24 * time.Hour, Daily: time.UTC}}
	s := NewSet(noon, sliding)
	yesterday := reserve(t, s, noon, tokens(10))
	reserve(t, s, at("13h"), tokens(20))
	s.SetLimits(at("14h"), daily)
	require.Equal(t, []int64{80}, room(s, at("14h")))
	require.False(t, s.Settle(at("14h"), yesterday, tokens(0)))
	require.Equal(t, []int64{80}, room(s, at("14h")))
	s.SetLimits(at("15h"), sliding)
	require.Equal(t, []int64{80}, room(s, at("37h").Add(-1)))
	require.Equal(t, []int64{100}, room(s, at("37h")))
}
