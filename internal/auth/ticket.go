package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	"github.com/usher-sh/usher"
)

// ticketFor is the unit of a ticket's life: a ticket is valid for one to two of
// these, so that all tickets made within one are the same text.
const ticketFor = time.Hour

// maxTicket bounds a ticket in bytes.
const maxTicket = 4 << 10

// errTicket is the same for every ticket that is not valid.
var errTicket = usher.Errorf(usher.Unauthenticated, "the ticket is invalid or has expired: request a new one")

// Ticket makes a text that may be part of a URL, where a key must not: its holder
// may do what scope names in the name of the caller's key, for one to two hours
// and while the key is live. It is signed with the key's hash, which every node
// can read, so any node can check it and nothing is stored. It returns Forbidden
// unless the caller is a key.
func (s *Service) Ticket(ctx context.Context, i *Identity, scope string) (string, error) {
	if i.Actor.Kind != "key" {
		return "", usher.Errorf(usher.Forbidden, "only an API key can make a ticket")
	}
	now := s.c.Now()
	st, err := s.keys.look(ctx, s.keys.entry(i.Actor.ID), i.Actor.ID, now)
	if err != nil {
		return "", err
	}
	if !st.found {
		return "", errKey
	}
	until := now.Truncate(ticketFor).Add(2 * ticketFor)
	body := i.Actor.ID + "." + strconv.FormatInt(until.Unix(), 36) + "." + base64.RawURLEncoding.EncodeToString([]byte(scope))
	return body + "." + base64.RawURLEncoding.EncodeToString(sign(st.value.Hash, body)), nil
}

// Redeem reads a ticket. It returns Unauthenticated unless the ticket is genuine,
// not expired and of a live key, and Unavailable if the database does not answer.
func (s *Service) Redeem(ctx context.Context, ticket string) (i Identity, scope string, until time.Time, err error) {
	cut := strings.LastIndexByte(ticket, '.')
	if cut < 0 || len(ticket) > maxTicket {
		return i, "", until, errTicket
	}
	body := ticket[:cut]
	id, rest, _ := strings.Cut(body, ".")
	expires, encoded, ok := strings.Cut(rest, ".")
	if !ok || len(id) != idLen {
		return i, "", until, errTicket
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(ticket[cut+1:])
	if err != nil {
		return i, "", until, errTicket
	}
	now := s.c.Now()
	st, err := s.keys.look(ctx, s.keys.entry(id), id, now)
	if err != nil {
		return i, "", until, err
	}
	k := &st.value
	if !st.found || !hmac.Equal(mac, sign(k.Hash, body)) {
		return i, "", until, errTicket
	}
	// The signature is right: the text was made by usher.
	at, err := strconv.ParseInt(expires, 36, 64)
	if err != nil {
		return i, "", until, errTicket
	}
	plain, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return i, "", until, errTicket
	}
	until = time.Unix(at, 0)
	switch {
	case !now.Before(until):
		return i, "", until, errTicket
	case !k.RevokedAt.IsZero():
		return i, "", until, errRevoked
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		return i, "", until, errExpired
	}
	return k.identity, string(plain), until, nil
}

// sign returns the MAC of a ticket's text under a key's hash, which only the
// servers know.
func sign(keyHash []byte, body string) []byte {
	m := hmac.New(sha256.New, keyHash)
	m.Write([]byte("usher ticket 1\n"))
	m.Write([]byte(body))
	return m.Sum(nil)
}
