package cli

import "testing"

// TestTheKeyOfGeminiGoesAsItsAPIWantsIt: its own one and the one that is OpenAI's.
func TestTheKeyOfGeminiGoesAsItsAPIWantsIt(t *testing.T) {
	for url, want := range map[string]string{
		"https://generativelanguage.googleapis.com":                "x-goog-api-key",
		"https://generativelanguage.googleapis.com/v1beta":         "x-goog-api-key",
		"https://generativelanguage.googleapis.com/v1beta/openai/": "bearer",
		"https://api.anthropic.com":                                "x-api-key",
	} {
		if got := providerAt(url).auth; got != want {
			t.Errorf("%s gets the key by %q, want %q", url, got, want)
		}
	}
}
