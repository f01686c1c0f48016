// Package e2e tests the built binary, from outside: real processes that are killed, field devices and
// hub clients that nobody here wrote. It holds nothing but tests.
package e2e
