package gateway

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
)

// client is who calls.
type client struct {
	hash   [sha256.Size]byte
	tenant string
	admin  bool // may open the page and the metrics
}

// readClients reads the keys that clients need. Keys that are no hash are hashed, and forgotten.
func readClients(c Clients) ([]client, error) {
	var text, from string
	switch {
	case c.KeysFile != "":
		data, err := os.ReadFile(c.KeysFile)
		if err != nil {
			return nil, fmt.Errorf("clients: keys_file: %w", err)
		}
		text, from = string(data), c.KeysFile
	case c.KeysEnv != "":
		text, from = os.Getenv(c.KeysEnv), c.KeysEnv
	default:
		return nil, nil
	}
	var all []client
	for i, line := range strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if len(words) < 2 || len(words) > 3 || len(words) == 3 && words[2] != "admin" {
			return nil, fmt.Errorf("clients: entry %d of %s: want TENANT KEY, or TENANT sha256:HASH, and admin behind it or nothing", i+1, from)
		}
		k := client{tenant: words[0], admin: len(words) == 3, hash: sha256.Sum256([]byte(words[1]))}
		if hash, ok := strings.CutPrefix(words[1], "sha256:"); ok {
			if n, err := hex.Decode(k.hash[:], []byte(hash)); err != nil || n != len(k.hash) || len(hash) != 2*len(k.hash) {
				return nil, fmt.Errorf("clients: entry %d of %s: what follows sha256: is no hash of 64 hexadecimal digits", i+1, from)
			}
		} else if len(words[1]) < 16 {
			return nil, fmt.Errorf("clients: entry %d of %s: the key is shorter than 16 bytes, and could be guessed", i+1, from)
		}
		all = append(all, k)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("clients: %s has no key: want a line with TENANT KEY for each client", from)
	}
	return all, nil
}

// find tells whose key it is, nil if nobody's, in a time that does not depend on it.
func find(clients []client, key string) *client {
	hash := sha256.Sum256([]byte(key))
	var found *client
	for i := range clients {
		if subtle.ConstantTimeCompare(hash[:], clients[i].hash[:]) == 1 {
			found = &clients[i]
		}
	}
	return found
}

// identify finds a client by the key that a request carries, wherever its SDK puts it, and takes
// every client's key off the request, so that none leaves the gateway.
func identify(clients []client, r *http.Request) *client {
	var who *client
	for _, name := range []string{headerKey, "Authorization", "X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
		v := r.Header.Get(name)
		if v == "" {
			continue
		}
		if name == "Authorization" {
			if _, password, ok := r.BasicAuth(); ok { // a browser's
				v = password
			} else if scheme, token, ok := strings.Cut(v, " "); ok && strings.EqualFold(scheme, "bearer") {
				v = strings.TrimSpace(token)
			}
		}
		if k := find(clients, v); k != nil {
			r.Header.Del(name)
			if who == nil {
				who = k
			}
		}
	}
	if strings.Contains(r.URL.RawQuery, "key=") {
		values := r.URL.Query()
		if k := find(clients, values.Get("key")); k != nil {
			values.Del("key")
			r.URL.RawQuery = values.Encode()
			if who == nil {
				who = k
			}
		}
	}
	return who
}

// isLoopback reports whether an address to listen on can be reached from this machine alone.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

var errForeign = errors.New("the request comes from a web page of another origin, or by a name that is not this machine's: call it as localhost, or let clients need keys")

var crossOrigin = http.NewCrossOriginProtection()

// fromHere refuses, where clients need no key, what a web page in a browser on this machine may
// have sent: from another origin, or by a name that leads here (DNS rebinding).
func fromHere(r *http.Request) error {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	if err != nil && host != "localhost" && !strings.HasSuffix(host, ".localhost") || crossOrigin.Check(r) != nil {
		return errForeign
	}
	return nil
}
