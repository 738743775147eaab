package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/usher-sh/usher"
)

// client talks to a server.
type client struct {
	base, key string // key is "" for calls that need none
	http      *http.Client
}

// server returns a client for --url, without a key.
func (a *app) server() (*client, error) {
	u, err := url.Parse(a.cli.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return nil, wrong("--url (USHER_URL) must be an address such as http://127.0.0.1:8080, got %q", a.cli.URL)
	}
	return &client{base: strings.TrimRight(u.String(), "/"), http: &http.Client{Timeout: time.Minute,
		// Following a redirect would turn a POST into a GET, so refusal names the new address.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// client returns a client for --url and --key.
func (a *app) client() (*client, error) {
	c, err := a.server()
	if err != nil {
		return nil, err
	}
	if a.cli.Key == "" {
		return nil, wrong("an API key is required: set USHER_KEY or give --key; `usher key create --db …` creates one")
	}
	if strings.ContainsAny(a.cli.Key, " \r\n\t") {
		return nil, wrong("the API key (--key, USHER_KEY) must be one word that begins with usk_, and has no white space")
	}
	if env, err := a.environment(""); err != nil {
		return nil, err
	} else if env != "" && !strings.HasPrefix(a.cli.Key, "usk_"+string(env)+"_") {
		return nil, wrong("the API key does not belong to %s, which --environment (USHER_ENVIRONMENT) names", env)
	}
	c.key = a.cli.Key
	return c, nil
}

// environment returns the environment of the key. A key contains it: usk_sandbox_….
func (c *client) environment() string {
	rest, _ := strings.CutPrefix(c.key, "usk_")
	env, _, _ := strings.Cut(rest, "_")
	return env
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 256 << 20

// send makes one request. If it does not succeed, or the server cannot be
// reached, it returns an *usher.Error, with the server's code, detail and problems.
func (c *client) send(ctx context.Context, method, path, contentType string, body []byte, header ...string) ([]byte, error) {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, in)
	if err != nil {
		return nil, err
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	req.Header.Set("User-Agent", "usher/"+versionText())
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return b, nil
	}
	return nil, refusal(res, b)
}

// unreachable returns the error for a server that cannot be reached.
func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return &usher.Error{Code: usher.Unavailable, Detail: "stopped while it waited for an answer of " + c.base}
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return &usher.Error{Code: usher.Unavailable,
			Detail: "nothing listens at " + c.base + ": start `usher serve` there, or set another address with --url or USHER_URL"}
	}
	return &usher.Error{Code: usher.Unavailable, Detail: "cannot reach " + c.base + ": " + err.Error()}
}

// refusal reads an RFC 9457 problem.
func refusal(res *http.Response, b []byte) error {
	var p struct {
		Code      usher.Code      `json:"code"`
		Detail    string          `json:"detail"`
		RequestID string          `json:"request_id"`
		Errors    []usher.Problem `json:"errors"`
	}
	if json.Unmarshal(b, &p) != nil || p.Detail == "" {
		p.Detail = "the server at " + res.Request.URL.Host + " answered " + res.Status + ": is it usher?"
		if to := res.Header.Get("Location"); to != "" {
			p.Detail = "the server at " + res.Request.URL.Host + " redirects to " + to + ": give that address as --url or USHER_URL"
		}
	}
	e := &usher.Error{Code: p.Code, Detail: p.Detail, Problems: p.Errors}
	switch {
	case res.StatusCode >= 500 && e.Code != usher.Unavailable:
		e.Code = usher.Internal
		if p.RequestID != "" {
			e.Detail += " (request " + p.RequestID + ")"
		}
	case res.StatusCode < 500 && (e.Code == "" || e.Code == usher.Internal):
		e.Code = usher.Invalid
	}
	if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(min(s, 3600)) * time.Second
	}
	return e
}

// call sends v as JSON, or no body if v is nil, and returns the answer as text and
// as an object.
func (c *client) call(ctx context.Context, method, path string, v any) ([]byte, object, error) {
	var body []byte
	if v != nil {
		var err error
		if body, err = json.Marshal(v); err != nil {
			return nil, nil, err
		}
	}
	b, err := c.send(ctx, method, path, "application/json", body)
	if err != nil {
		return nil, nil, err
	}
	o, err := parseObject(b)
	if err != nil {
		return nil, nil, &usher.Error{Code: usher.Unavailable, Detail: "the answer of " + c.base + " is not JSON: is it usher?"}
	}
	return b, o, nil
}

// ask makes a client, calls the server and prints the answer: unchanged with --json,
// otherwise by show.
func (a *app) ask(method, path string, v any, show func(object)) (object, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	b, o, err := c.call(a, method, path, v)
	if err != nil {
		return nil, err
	}
	if a.cli.JSON {
		_, err = a.out.Write(append(bytes.TrimRight(b, "\n"), '\n'))
		return o, err
	}
	show(o.in(time.UTC))
	return o, nil
}

// all reads all pages of a list. filter is names and values of the query; empty
// values are left out. With --json it prints the list.
func (a *app) all(path string, filter ...string) ([]object, error) {
	c, err := a.client()
	if err != nil {
		return nil, err
	}
	list, err := a.pages(c, path, most, filter...)
	if err == nil && a.cli.JSON {
		err = a.printJSON(map[string]any{"data": list})
	}
	return list, err
}

// most is the limit of pages that reads everything.
const most = math.MaxInt

// pages reads a list, page by page, until its end or until it has limit elements. It is
// never nil if there is no error. filter is as of all.
func (a *app) pages(c *client, path string, limit int, filter ...string) ([]object, error) {
	list := []object{}
	q := url.Values{}
	for i := 0; i+1 < len(filter); i += 2 {
		if filter[i+1] != "" {
			q.Set(filter[i], filter[i+1])
		}
	}
	for len(list) < limit {
		q.Set("limit", strconv.Itoa(min(limit-len(list), 1000)))
		_, page, err := c.call(a, "GET", path+"?"+q.Encode(), nil)
		if err != nil {
			return nil, err
		}
		list = append(list, page.list("data")...)
		next := page.text("next_cursor")
		if next == "" {
			break
		}
		q.Set("cursor", next)
	}
	return list, nil
}

// body returns an object of names and values. Empty texts and nil are left out.
func body(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		switch v := pairs[i+1].(type) {
		case string:
			if v == "" {
				continue
			}
		case nil:
			continue
		}
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}
