// Package sdktest holds the official SDKs against llmtest: it has tests only, in
// a module of its own, so that nobody downloads SDKs who does not want them.
package sdktest
