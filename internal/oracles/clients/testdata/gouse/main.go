// Command gouse is a small program on the client that oapi-codegen makes: it
// creates a customer, subscribes it, consumes, checks and lists.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
)

// beyond is 2^53+1, which no float64 holds.
const beyond = 9_007_199_254_740_993

func main() {
	log.SetFlags(log.Lshortfile)
	ctx := context.Background()
	key := func(_ context.Context, r *http.Request) error {
		r.Header.Set("Authorization", "Bearer "+os.Getenv("USHER_KEY"))
		return nil
	}
	usher, err := NewClientWithResponses(os.Getenv("USHER_URL"), WithRequestEditorFn(key))
	must(err)

	name := "Acme"
	made, err := usher.PutCustomerWithResponse(ctx, "go", nil, CustomerInput{Name: &name})
	must(err)
	if made.JSON201 == nil || made.JSON201.Name != name {
		log.Fatalf("got %d %s, want a customer", made.StatusCode(), made.Body)
	}
	once := "first"
	params := &CreateSubscriptionParams{IdempotencyKey: &once}
	subscribed, err := usher.CreateSubscriptionWithResponse(ctx, "go", params, SubscribeInput{Plan: "pro"})
	must(err)
	if subscribed.JSON201 == nil || subscribed.JSON201.Plan != "pro@1" || subscribed.JSON201.Status != StatusActive {
		log.Fatalf("got %d %s, want an active subscription to pro@1", subscribed.StatusCode(), subscribed.Body)
	}

	var amount Amount
	must(amount.FromAmount0(beyond))
	take := "a"
	taken, err := usher.ConsumeWithResponse(ctx, nil, ConsumeInput{Customer: "go", Feature: "calls", Amount: &amount, Key: &take})
	must(err)
	if taken.JSON200 == nil || !taken.JSON200.Allowed || taken.JSON200.Used == nil {
		log.Fatalf("got %d %s, want a yes", taken.StatusCode(), taken.Body)
	}
	if used, err := taken.JSON200.Used.AsQuantity0(); err != nil || used != beyond {
		log.Fatalf("got %d used, %v, want %d", used, err, int64(beyond))
	}

	sso := "sso"
	checked, err := usher.CheckWithResponse(ctx, nil, CheckInput{Customer: "go", Feature: &sso})
	must(err)
	if checked.JSON200 == nil || !checked.JSON200.Allowed || checked.JSON200.Reason != ReasonGranted {
		log.Fatalf("got %d %s, want granted", checked.StatusCode(), checked.Body)
	}
	listed, err := usher.ListCustomersWithResponse(ctx, nil)
	must(err)
	if listed.JSON200 == nil || len(listed.JSON200.Data) != 2 || listed.JSON200.Data[1].Id != "go" {
		log.Fatalf("got %d %s, want acme and go", listed.StatusCode(), listed.Body)
	}
	lost, err := usher.GetCustomerWithResponse(ctx, "nobody", nil)
	must(err)
	if lost.ApplicationproblemJSONDefault == nil || lost.ApplicationproblemJSONDefault.Code != CodeNotFound {
		log.Fatalf("got %d %s, want not_found", lost.StatusCode(), lost.Body)
	}
	fmt.Println("done")
}

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}
