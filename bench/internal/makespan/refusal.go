package makespan

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/openai/openai-go/v3"
)

// status is that of the answer that the SDK made an error of; 0 if there was none.
func status(err error) int {
	if api := (*openai.Error)(nil); errors.As(err, &api) {
		return api.StatusCode
	}
	return 0
}

// retryable is whether the SDK would try the call again.
func retryable(err error) bool {
	s := status(err)
	return s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s == http.StatusConflict || s >= 500
}

// retryAfter is how long the provider asks to wait, or half a second if it does not say.
func retryAfter(err error) time.Duration {
	if api := (*openai.Error)(nil); errors.As(err, &api) && api.Response != nil {
		if s, err := strconv.ParseFloat(api.Response.Header.Get("Retry-After"), 64); err == nil {
			return time.Duration(s * float64(time.Second))
		}
	}
	return 500 * time.Millisecond
}
