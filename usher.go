// Package usher is the nouns of entitlement management: what a company sells
// (catalogue, plans, features), who holds it (customers, subscriptions,
// overrides, grants), and what is answered (decisions). It holds values and
// their parsers only: no storage, no network, no clock.
package usher
