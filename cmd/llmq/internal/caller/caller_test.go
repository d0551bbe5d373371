package caller

import "testing"

func TestURLsAreJoinedWhereTheyOverlap(t *testing.T) {
	for base, wants := range map[string]map[string]string{
		"https://api.openai.com/v1":           {"/v1/chat/completions": "https://api.openai.com/v1/chat/completions", "/chat/completions": "https://api.openai.com/v1/chat/completions", "/v1beta/x": "https://api.openai.com/v1/v1beta/x"},
		"https://api.openai.com/v1/":          {"/v1/responses": "https://api.openai.com/v1/responses"},
		"http://127.0.0.1:8000":               {"/v1/embeddings": "http://127.0.0.1:8000/v1/embeddings"},
		"https://gateway.example/openai/v1":   {"/v1/chat/completions": "https://gateway.example/openai/v1/chat/completions"},
		"https://generativelanguage.x/openai": {"/v1/chat/completions": "https://generativelanguage.x/openai/v1/chat/completions"},
	} {
		c, err := New(Config{BaseURL: base})
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range wants {
			if got := c.URL(path).String(); got != want {
				t.Errorf("%s and %s make %s, want %s", base, path, got, want)
			}
		}
	}
}

func TestABodyIsOneLineOfJSON(t *testing.T) {
	for body, want := range map[string]struct {
		line  string
		whole bool
	}{
		`{"a": "<b>" , "c":[]}`:           {`{"a": "<b>" , "c":[]}`, true},
		"\r\n{\"a\":1}\n":                 {`{"a":1}`, true},
		"{\r\n\t\"a\": [1,\n \"x\\ny\"]}": {`{"a":[1,"x\ny"]}`, true},
		"half {\n":                        {`"half {\n"`, false},
		"":                                {`""`, false},
		"\xff":                            {`"` + "\uFFFD" + `"`, false},
	} {
		if line, whole := asJSON([]byte(body)); string(line) != want.line || whole != want.whole {
			t.Errorf("%q becomes %s, JSON: %v, want %s, %v", body, line, whole, want.line, want.whole)
		}
	}
}
