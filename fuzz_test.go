package llmqueue

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzLimitJSON: whatever a configuration file says, a limit is refused with a
// one-line error or can be used and written back.
func FuzzLimitJSON(f *testing.F) {
	for _, s := range []string{
		`{"type":"rpm","limit":500}`, `{"type":"tpm","limit":200000,"time_period":"60s"}`,
		`{"type":"itpm","limit":1,"time_period":0.000000001}`, `{"type":"OTPM","limit":5,"burst":2,"time_period":90}`,
		`{"type":"rpd","limit":5,"resets":"America/Los_Angeles"}`, `{"type":"concurrent","limit":281474976710656}`,
		`{"type":"rpm","limit":1e3}`, `{"type":"rpm","limit":null,"time_period":"1h"}`, `[]`, `null`, `{"type":"rpm","limit":1,"x":2}`,
		`{"type":"tpd","limit":3,"time_period":"24h","resets":"UTC"}`, `{"type":"rpm","limit":1,"time_period":"8784h"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var l Limit
		if err := json.Unmarshal(data, &l); err != nil {
			if json.Valid(data) {
				require.ErrorIs(t, err, ErrInvalidConfiguration)
			}
			assert.Zero(t, l)
			return
		}
		if l == (Limit{}) {
			return // null
		}
		require.NoError(t, l.validate())
		written, err := json.Marshal(l)
		require.NoError(t, err)
		var again Limit
		require.NoError(t, json.Unmarshal(written, &again), "what was written is refused: %s", written)
		assert.Equal(t, l.String(), again.String())
		assert.Equal(t, l.period(), again.period())
		assert.Equal(t, l.Burst, again.Burst)
		assert.NoError(t, validateLimits([]Limit{l}))
	})
}

// FuzzModelConfigJSON: a model is refused, naming the field, or makes a queue,
// unless two of its limits are the same.
func FuzzModelConfigJSON(f *testing.F) {
	for _, s := range []string{
		`{"model_id":"m","rate_limiters":[{"type":"rpm","limit":500},{"type":"concurrent","limit":3}]}`,
		`{"model_id":"m"}`, `{"model_id":"","rate_limiters":null}`, `{"model_id":"m","rate_limiters":[null]}`,
		`{"model_id":"m","rate_limiters":[{"type":"rpm","limit":1},{"type":"rpm","limit":2}]}`,
		`{"model_id":"m","rate_limiters":[{"type":"tpm","limit":5,"burst":1,"time_period":1e-9}]}`, `{`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c ModelConfig
		if err := json.Unmarshal(data, &c); err != nil {
			if json.Valid(data) {
				require.ErrorIs(t, err, ErrInvalidConfiguration)
			}
			assert.Zero(t, c)
			return
		}
		if c.ModelID == "" {
			return // null
		}
		m := NewManager[int, int](WithUnlimited())
		if err := m.RegisterAll([]ModelConfig{c}, echo); err != nil {
			require.ErrorIs(t, err, ErrInvalidConfiguration)
			require.Error(t, validateLimits(c.Limits))
			return
		}
		info, err := m.Info(c.ModelID)
		require.NoError(t, err)
		assert.Len(t, info.Limits, len(c.Limits))
		require.NoError(t, m.Shutdown(t.Context()))
	})
}

// FuzzResponseJSON: a response that can be read can be written, and reads the same
// again.
func FuzzResponseJSON(f *testing.F) {
	for _, s := range []string{
		`{"request_id":"a","model_id":"m","status":"completed","result":{"text":"x","score":1},"attempts":1,"usage":{"input_tokens":3,"output_tokens":4}}`,
		`{"status":"failed","error":"boom","error_code":"processing_error","processor_failed":true}`,
		`{"status":"canceled","error":"llmqueue: request canceled","error_code":"canceled"}`,
		`{"error_code":"deadline_exceeded"}`, `{"status":"pending","position":3,"estimated_start":"2026-01-01T00:00:00Z"}`,
		`{"processor_failed":true}`, `{"metadata":{"a":"b"},"created_at":"2026-01-01T00:00:00.000000001+02:00"}`, `null`, `{}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Response[wireAnswer]
		if json.Unmarshal(data, &r) != nil {
			return
		}
		written, err := json.Marshal(r)
		if err != nil {
			return // a date that JSON cannot hold
		}
		var again Response[wireAnswer]
		require.NoError(t, json.Unmarshal(written, &again), "%s", written)
		if r.Status != StatusCompleted {
			r.Result = wireAnswer{} // written of a completed request only
		}
		require.Equal(t, r.Err == nil, again.Err == nil, "%s", written)
		if r.Err != nil {
			assert.Equal(t, r.Err.Error(), again.Err.Error())
			assert.Equal(t, errorCode(r.Err), errorCode(again.Err))
			for _, c := range errorCodes {
				assert.Equal(t, errors.Is(r.Err, c.Err), errors.Is(again.Err, c.Err), c.Code)
			}
		}
		r.Err, again.Err = nil, nil
		assert.True(t, r.CreatedAt.Equal(again.CreatedAt) && r.StartedAt.Equal(again.StartedAt) && r.FinishedAt.Equal(again.FinishedAt))
		r.CreatedAt, r.StartedAt, r.FinishedAt, r.EstimatedStart = again.CreatedAt, again.StartedAt, again.FinishedAt, again.EstimatedStart
		if len(r.Metadata) == 0 {
			r.Metadata, again.Metadata = nil, nil
		}
		assert.Equal(t, r, again)
	})
}
