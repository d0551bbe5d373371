package browsertest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// ask makes one call with plain net/http; the transport tells the queue about usage
// and what an error means.
func ask(ctx context.Context, client *http.Client, url, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer any")
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("the provider answered %s", res.Status)
	}
	return string(answer), err
}
