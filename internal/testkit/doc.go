// Package testkit is what tests of several packages need: to wait until something is true, to run what blocks for as
// long as a test lasts, to collect what is logged meanwhile, to take seeds and sizes of long runs from the environment,
// to keep notes in memory, and to know which tests there are.
//
// The promise: it holds nothing of the product and imports nothing of it, so that the simulators, which judge the
// product, may use it too. Only tests import it; layers_test.go sees to both.
package testkit
