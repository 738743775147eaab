package audit

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Name is the signer's name in every checkpoint, and its first line.
const Name = "usher-audit"

// Checkpoint is the state of a log at one time: its number of rows and the hash of them all.
// Its text is that of C2SP's tlog-checkpoint, signed as a note.
type Checkpoint struct {
	Size int64
	Root Hash
}

func (c Checkpoint) text() string { return fmt.Sprintf("%s\n%d\n%s\n", Name, c.Size, c.Root) }

func parseCheckpoint(text string) (c Checkpoint, err error) {
	bad := errors.New("it is not a checkpoint of an usher audit log")
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != Name || lines[3] != "" {
		return c, bad
	}
	c.Size, err = strconv.ParseInt(lines[1], 10, 64)
	if err != nil || c.Size < 1 {
		return c, bad
	}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil || c.text() != text {
		return c, bad
	}
	return c, nil
}

// Signer signs checkpoints and exports with an Ed25519 key.
type Signer struct {
	note.Signer
	private, public string
}

// NewKey returns a signer with a new key.
func NewKey(random io.Reader) (*Signer, error) {
	private, _, err := note.GenerateKey(random, Name)
	if err != nil {
		return nil, err
	}
	return ParseKey(private)
}

// ParseKey reads the private key that Private gives.
func ParseKey(private string) (*Signer, error) {
	private = strings.TrimSpace(private)
	bad := errors.New(`the audit key must be one line "PRIVATE+KEY+` + Name + `+…", as "usher audit key --new" writes it`)
	s, err := note.NewSigner(private)
	if err != nil || s.Name() != Name {
		return nil, bad
	}
	part := strings.SplitN(private, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(part[len(part)-1])
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, bad
	}
	public, err := note.NewEd25519VerifierKey(Name, ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
	if err != nil {
		return nil, bad
	}
	return &Signer{s, private, public}, nil
}

// Public returns the public key, which verifies signatures.
func (s *Signer) Public() string { return s.public }

// Private returns the private key, which signs. It is a secret.
func (s *Signer) Private() string { return s.private }

// Checkpoint signs the state of a log.
func (s *Signer) Checkpoint(c Checkpoint) (string, error) { return s.sign(c.text()) }

func (s *Signer) sign(text string) (string, error) {
	b, err := note.Sign(&note.Note{Text: text}, s.Signer)
	return string(b), err
}

// CheckKey returns an error unless public is the public key of an audit log.
func CheckKey(public string) error {
	v, err := note.NewVerifier(public)
	if err != nil || v.Name() != Name {
		return fmt.Errorf(`%.100q is not the public key of an audit log: it must begin with "%s+"`, public, Name)
	}
	return nil
}

// ReadCheckpoint reads a signed checkpoint without checking who signed it.
func ReadCheckpoint(signed string) (Checkpoint, error) {
	text, _, _ := strings.Cut(signed, "\n\n")
	return parseCheckpoint(text + "\n")
}

// OpenCheckpoint verifies a signed checkpoint with any of some public keys.
func OpenCheckpoint(signed string, keys ...string) (Checkpoint, error) {
	text, err := open(signed, keys)
	if err != nil {
		return Checkpoint{}, err
	}
	return parseCheckpoint(text)
}

// open returns the text that one of keys signed. The form is strict: it
// refuses anything but the text and one signature in its one spelling.
func open(signed string, keys []string) (string, error) {
	var verifiers []note.Verifier
	for i, k := range keys {
		if slices.Contains(keys[:i], k) {
			continue
		}
		if err := CheckKey(k); err != nil {
			return "", err
		}
		v, err := note.NewVerifier(k)
		if err != nil {
			return "", err
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open([]byte(signed), note.VerifierList(verifiers...))
	var unverified *note.UnverifiedNoteError
	switch {
	case errors.As(err, &unverified):
		return "", errors.New("it is signed with another key")
	case err != nil:
		return "", errors.New("its signature is not valid")
	}
	if len(n.Sigs) != 1 || len(n.UnverifiedSigs) != 0 {
		return "", errors.New("it has more than one signature")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(n.Sigs[0].Base64)
	if err != nil {
		return "", errors.New("its signature is not valid")
	}
	want := n.Text + "\n— " + n.Sigs[0].Name + " " + base64.StdEncoding.EncodeToString(sig) + "\n"
	if !bytes.Equal([]byte(want), []byte(signed)) {
		return "", errors.New("its signature is not valid")
	}
	return n.Text, nil
}
