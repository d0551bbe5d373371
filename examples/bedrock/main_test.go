package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/llmqueue/llmqueue/examples/internal/exampletest"
	"github.com/llmqueue/llmqueue/examples/internal/service"
	"github.com/llmqueue/llmqueue/llmtest"
)

// alone keeps a test from what this machine knows of Amazon.
func alone(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL"} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
}

func TestRun(t *testing.T) {
	alone(t)
	out := exampletest.Output(t, run)
	exampletest.Wants(t, out,
		"Streamed after 2 attempts, ", // it was cut
		"8 of 8 questions answered",
		"Calls: 10 accepted, 2 refused, 0 met an overloaded server, 0 failed",
		"rpm              12 used,      88 left")

	streamed := exampletest.Numbers(t, out, `^Streamed after 2 attempts, (\d+) tokens`)
	answers := exampletest.Numbers(t, out, ` (\d+) tokens in [0-9.]+s after (\d+) attempts?$`)
	total := exampletest.Numbers(t, out, `(\d+) input and (\d+) output tokens$`)[0]
	if n, attempts := len(answers), exampletest.Sum(answers, 1); n != 8 || attempts != 10 || exampletest.Sum(answers, 0) != total[1] || streamed[0][0] == 0 {
		t.Errorf("%d answers in %v attempts, %v tokens\n%s", n, attempts, total, out)
	}
}

// What newClient's comment says of AWS_CA_BUNDLE.
func TestCABundle(t *testing.T) {
	alone(t)
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	if err := os.WriteFile(bundle, certificate(t), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)

	if _, err := config.LoadDefaultConfig(t.Context(), config.WithHTTPClient(http.DefaultClient)); err == nil || !strings.Contains(err.Error(), "unable to add custom RootCAs HTTPClient, has no WithTransportOptions") {
		t.Errorf("error %v", err)
	}
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if client, ok := cfg.HTTPClient.(*awshttp.BuildableClient); !ok || client.GetTransport().TLSClientConfig.RootCAs == nil {
		t.Errorf("the SDK's own client is %T", cfg.HTTPClient)
	}
	from, err := service.Open(llmtest.Bedrock(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := newClient(t.Context(), from); err != nil {
		t.Errorf("the example fails with a bundle: %v", err)
	}
}

// certificate is one that nobody signed but itself.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
