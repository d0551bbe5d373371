package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/llmqueue/llmqueue/accounting"
)

func isTTY(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// provider is what is known of a host.
type provider struct {
	suffix     string // of the host
	keyEnv     string
	auth       string
	accounting string // documented: see accounting.ByName
	maxTokens  string // what it calls the bound of a chat's answer
	flex       bool   // it has a tier of that name at half the price: see results.FlexShare
}

const gemini = "generativelanguage.googleapis.com"

// auths are the ways in which a key is sent, as --auth names them.
var auths = []string{"bearer", "api-key", "x-api-key", "x-goog-api-key"}

// providers, the first that fits.
var providers = []provider{
	{"api.openai.com", "OPENAI_API_KEY", "bearer", "openai", "max_completion_tokens", true},
	{".openai.azure.com", "AZURE_OPENAI_API_KEY", "api-key", "azure", "max_completion_tokens", true},
	{".services.ai.azure.com", "AZURE_OPENAI_API_KEY", "api-key", "azure", "max_completion_tokens", true},
	{"api.anthropic.com", "ANTHROPIC_API_KEY", "x-api-key", "anthropic", "max_tokens", false},
	{"api.groq.com", "GROQ_API_KEY", "bearer", "groq", "max_completion_tokens", false},
	{gemini, "GEMINI_API_KEY", "x-goog-api-key", "gemini", "max_tokens", true}, // ai.google.dev/api
	{"api.mistral.ai", "MISTRAL_API_KEY", "bearer", "mistral", "max_tokens", false},
	{".amazonaws.com", "AWS_BEARER_TOKEN_BEDROCK", "bearer", "bedrock", "max_tokens", false},
}

// other is any other host. A key is sent to it only if it was meant for llmq.
var other = provider{"", "LLMQ_API_KEY", "bearer", "", "max_tokens", true}

// loopback is what runs on this machine, llmq simulate first of all: it charges a
// request and its bound when it comes, for good, as Azure does.
var loopback = provider{"", "LLMQ_API_KEY", "bearer", "azure", "max_tokens", true}

// providerAt is what is known of the host of a base URL.
func providerAt(baseURL string) provider {
	u, err := url.Parse(baseURL)
	if err != nil {
		return other
	}
	host := strings.ToLower(u.Hostname())
	for _, p := range providers {
		if host == p.suffix || strings.HasPrefix(p.suffix, ".") && strings.HasSuffix(host, p.suffix) {
			if host == gemini && strings.Contains(u.Path, "/openai") {
				p.auth = "bearer" // ai.google.dev/gemini-api/docs/openai
			}
			return p
		}
	}
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return loopback
	}
	return other
}

// readKey reads the key from a file or the environment. from says where, for messages.
func readKey(p provider, env, file string) (key, from string, err error) {
	switch {
	case env != "" && file != "":
		return "", "", errors.New("--key-env and --key-file exclude each other, give one")
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return "", "", fmt.Errorf("--key-file: %w", err)
		}
		if key = strings.TrimSpace(string(data)); key == "" {
			return "", "", fmt.Errorf("--key-file: %s is empty", file)
		}
		return key, file, nil
	case env != "":
		if key = strings.TrimSpace(os.Getenv(env)); key == "" {
			if !isName(env) {
				return "", "", errors.New("--key-env wants the name of a variable, not the key: keys stand in no flag")
			}
			return "", "", fmt.Errorf("--key-env: %s is not set in the environment", env)
		}
		return key, env, nil
	}
	return strings.TrimSpace(os.Getenv(p.keyEnv)), p.keyEnv, nil
}

func isName(s string) bool {
	return strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") == ""
}

// readHeader reads "Name: value" flags. Those that carry keys are refused.
func readHeader(list []string) (http.Header, error) {
	h := http.Header{}
	for _, item := range list {
		name, value, ok := strings.Cut(item, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, errors.New(`--header wants 'Name: value'`)
		}
		lower := strings.ToLower(name)
		for _, secret := range []string{"authorization", "key", "token", "cookie", "secret"} {
			if strings.Contains(lower, secret) {
				return nil, fmt.Errorf("--header %s: keys stand in no flag, use --key-env or --key-file (and --auth)", name)
			}
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// accountingOf reads a name of --accounting: empty, "auto" and "estimate" among them.
func accountingOf(name string, p provider) (accounting.Policy, error) {
	switch name {
	case "", "auto":
		return accounting.ByName(p.accounting)
	case "estimate":
		return accounting.Policy{}, nil
	}
	a, err := accounting.ByName(name)
	if err != nil {
		return a, fmt.Errorf("--accounting: %w", err)
	}
	return a, nil
}
