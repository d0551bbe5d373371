package cli

import (
	"crypto/x509"
	"fmt"
	"os"
)

// readCAs reads authorities beside the system's, nil without a file.
func readCAs(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil { // the system has none that can be read
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("--ca-file: %s has no certificate in PEM (-----BEGIN CERTIFICATE-----)", path)
	}
	return pool, nil
}
