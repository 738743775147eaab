package openfeature

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	of "github.com/open-feature/go-sdk/openfeature"
)

// TestGo: the real OpenFeature SDK for Go. The OFREP provider that the community
// makes for it cannot be fetched everywhere, so a small one stands here, which
// knows the protocol and nothing of usher.
func TestGo(t *testing.T) {
	s := serve(t)
	s.Do(t, "PUT", "/v1/customers/acme", "application/json", `{}`)
	if err := of.SetProviderAndWait(&provider{base: s.URL, key: s.flagsKey}); err != nil {
		t.Fatal(err)
	}
	defer of.Shutdown()
	client, ctx := of.NewClient("test"), t.Context()
	acme := of.NewEvaluationContext("acme", map[string]any{"since": time.Now(), "teams": []string{"a"}})

	sso, err := client.BooleanValueDetails(ctx, "sso", false, acme)
	if plan, _ := sso.FlagMetadata.GetString("plan"); err != nil || !sso.Value || sso.Reason != of.TargetingMatchReason ||
		sso.Variant != "on" || plan != "pro@1" {
		t.Errorf("sso: got %+v, %v", sso, err)
	}
	audit, err := client.BooleanValueDetails(ctx, "audit", true, acme)
	if reason, _ := audit.FlagMetadata.GetString("reason"); err != nil || audit.Value || audit.Reason != of.DisabledReason ||
		reason != "not_entitled" {
		t.Errorf("audit: got %+v, %v", audit, err)
	}
	if got, err := client.StringValue(ctx, "support", "community", acme); err != nil || got != "email" {
		t.Errorf("support: got %q, %v", got, err)
	}
	if got, err := client.IntValue(ctx, "retention", 7, acme); err != nil || got != 90 {
		t.Errorf("retention: got %d, %v", got, err)
	}
	if got, err := client.FloatValue(ctx, "discount", 0, acme); err != nil || got != 12.5 {
		t.Errorf("discount: got %v, %v", got, err)
	}
	if got, err := client.ObjectValue(ctx, "regions", nil, acme); err != nil || len(got.([]any)) != 2 {
		t.Errorf("regions: got %v, %v", got, err)
	}
	if got, err := client.ObjectValue(ctx, "exports", nil, acme); err != nil || got.(map[string]any)["remaining"] != 2.0 {
		t.Errorf("exports: got %v, %v", got, err)
	}
	if got, err := client.IntValue(ctx, "archive", 9999, acme); err != nil || got != 0 {
		t.Errorf("what is denied: got %d, %v, want 0 and never the default", got, err)
	}
	s.Do(t, "POST", "/v1/consume", "application/json", `{"customer":"acme","feature":"exports","amount":2,"key":"1"}`)
	if got, err := client.BooleanValue(ctx, "exports.allowed", true, acme); err != nil || got {
		t.Errorf("what is used up: got %v, %v", got, err)
	}
	for _, c := range []struct {
		key  string
		who  of.EvaluationContext
		code of.ErrorCode
	}{
		{"nothing", acme, of.FlagNotFoundCode},
		{"sso", of.NewTargetlessEvaluationContext(nil), of.TargetingKeyMissingCode},
		{"sso", of.NewEvaluationContext("acme", map[string]any{"member": 5}), of.InvalidContextCode},
		{"retention", acme, of.TypeMismatchCode},
	} {
		got, err := client.BooleanValueDetails(ctx, c.key, true, c.who)
		if err == nil || !got.Value || got.ErrorCode != c.code {
			t.Errorf("%s: got %+v, %v, want the default and %s", c.key, got, err, c.code)
		}
	}
}

// provider asks for one flag at a time, by OFREP.
type provider struct{ base, key string }

func (*provider) Metadata() of.Metadata { return of.Metadata{Name: "ofrep"} }
func (*provider) Hooks() []of.Hook      { return nil }

func (p *provider) BooleanEvaluation(ctx context.Context, flag string, value bool, who of.FlattenedContext) of.BoolResolutionDetail {
	v, d := resolve(ctx, p, flag, value, who)
	return of.BoolResolutionDetail{Value: v, ProviderResolutionDetail: d}
}

func (p *provider) StringEvaluation(ctx context.Context, flag, value string, who of.FlattenedContext) of.StringResolutionDetail {
	v, d := resolve(ctx, p, flag, value, who)
	return of.StringResolutionDetail{Value: v, ProviderResolutionDetail: d}
}

func (p *provider) FloatEvaluation(ctx context.Context, flag string, value float64, who of.FlattenedContext) of.FloatResolutionDetail {
	v, d := resolve(ctx, p, flag, value, who)
	return of.FloatResolutionDetail{Value: v, ProviderResolutionDetail: d}
}

func (p *provider) IntEvaluation(ctx context.Context, flag string, value int64, who of.FlattenedContext) of.IntResolutionDetail {
	v, d := resolve(ctx, p, flag, value, who)
	return of.IntResolutionDetail{Value: v, ProviderResolutionDetail: d}
}

func (p *provider) ObjectEvaluation(ctx context.Context, flag string, value any, who of.FlattenedContext) of.InterfaceResolutionDetail {
	v, d := resolve(ctx, p, flag, value, who)
	return of.InterfaceResolutionDetail{Value: v, ProviderResolutionDetail: d}
}

// resolve asks for a flag whose value is a T. A value that is missing is of the
// wrong type, as in other providers.
func resolve[T any](ctx context.Context, p *provider, flag string, otherwise T, who of.FlattenedContext) (T, of.ProviderResolutionDetail) {
	failed := func(err of.ResolutionError) (T, of.ProviderResolutionDetail) {
		return otherwise, of.ProviderResolutionDetail{ResolutionError: err, Reason: of.ErrorReason}
	}
	body, err := json.Marshal(map[string]any{"context": who})
	if err != nil {
		return failed(of.NewGeneralResolutionError(err.Error()))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+"/ofrep/v1/evaluate/flags/"+url.PathEscape(flag),
		bytes.NewReader(body))
	if err != nil {
		return failed(of.NewGeneralResolutionError(err.Error()))
	}
	req.Header.Set("Authorization", "Bearer "+p.key)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return failed(of.NewGeneralResolutionError(err.Error()))
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return failed(of.NewGeneralResolutionError(err.Error()))
	}
	var answer struct {
		Key, Reason, Variant, ErrorCode, ErrorDetails string

		Value    *T
		Metadata map[string]any
	}
	if err := json.Unmarshal(text, &answer); err != nil && res.StatusCode != http.StatusOK {
		return failed(of.NewParseErrorResolutionError(err.Error()))
	} else if res.StatusCode == http.StatusOK && (err != nil || answer.Value == nil) {
		return failed(of.NewTypeMismatchResolutionError("the value is of another type"))
	}
	switch of.ErrorCode(answer.ErrorCode) {
	case "":
	case of.FlagNotFoundCode:
		return failed(of.NewFlagNotFoundResolutionError(answer.ErrorDetails))
	case of.TargetingKeyMissingCode:
		return failed(of.NewTargetingKeyMissingResolutionError(answer.ErrorDetails))
	case of.InvalidContextCode:
		return failed(of.NewInvalidContextResolutionError(answer.ErrorDetails))
	case of.ParseErrorCode:
		return failed(of.NewParseErrorResolutionError(answer.ErrorDetails))
	default:
		return failed(of.NewGeneralResolutionError(answer.ErrorDetails))
	}
	if answer.Key != flag {
		return failed(of.NewGeneralResolutionError("an answer about " + answer.Key))
	}
	return *answer.Value, of.ProviderResolutionDetail{Reason: of.Reason(answer.Reason), Variant: answer.Variant, FlagMetadata: answer.Metadata}
}
