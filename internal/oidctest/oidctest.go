// Package oidctest tests the login with an identity provider against a real provider
// that runs in the tests. It contains only tests, and is a module of its own so that
// the provider is not a dependency of usher.
package oidctest
