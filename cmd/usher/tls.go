package main

import (
	"crypto/tls"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// certificate is a certificate in files, read again when they change, so that a
// renewal needs no restart.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	read   *tls.Certificate
	stamps [2]time.Time // when the files were changed that were read last
}

// listenTLS speaks TLS at l with the certificate in two files.
func listenTLS(l net.Listener, certFile, keyFile string, log *slog.Logger) (net.Listener, error) {
	if certFile == "" || keyFile == "" {
		return nil, wrong("--tls-cert and --tls-key must be given together")
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.load(c.changed()); err != nil {
		return nil, wrong("--tls-cert %s, --tls-key %s: %s", certFile, keyFile, err)
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: c.get}), nil
}

// changed returns when the files were last changed; zero for a file that does not exist.
func (c *certificate) changed() (stamps [2]time.Time) {
	for i, name := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = info.ModTime()
		}
	}
	return stamps
}

func (c *certificate) load(stamps [2]time.Time) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	c.stamps = stamps // also if the pair is bad: it is read again when it changes, not at each connection
	if err == nil {
		c.read = &pair
	}
	return err
}

// get returns the certificate. While the files do not fit together, as during a renewal,
// it returns the last good certificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if stamps := c.changed(); stamps != c.stamps {
		if err := c.load(stamps); err != nil {
			c.log.Warn("the TLS certificate cannot be read again; the earlier one stays", "error", err)
		}
	}
	return c.read, nil
}

// loopback reports whether only this machine reaches an address.
func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
