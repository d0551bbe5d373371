package caller

import "testing"

func TestOnlyAWholeKeyOfSomeLengthIsTakenOut(t *testing.T) {
	const key = "sk-very-secret-0123456789"
	for _, c := range []struct{ key, text, want string }{
		{key, "wrong key: " + key + ".", "wrong key: [key]."},
		{key, key + key + " " + key, key + key + " [key]"},
		{key, `{"message":"wrong:\n` + key + `"}`, `{"message":"wrong:\n[key]"}`},
		{key, "not " + key + "0, but " + key, "not " + key + "0, but [key]"},
		{"internationalize", "internationalized", "internationalized"},
		{"test", "The latest test failed", "The latest test failed"},
		{"1", `{"code":1}`, `{"code":1}`},
		{"", "nothing", "nothing"},
	} {
		if got := (&Caller{config: Config{Key: c.key}}).redact(c.text); got != c.want {
			t.Errorf("with the key %q, %q becomes %q, want %q", c.key, c.text, got, c.want)
		}
	}
}
