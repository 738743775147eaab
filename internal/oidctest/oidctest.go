// Package oidctest proves the login with an identity provider against a real
// one, which runs in the tests. It is a module of its own, so that the provider
// is no dependency of usher, and holds nothing but tests.
package oidctest
