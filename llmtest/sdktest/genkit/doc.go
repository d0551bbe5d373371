// Package genkit holds Genkit against llmtest: it has tests only, in a module of its own, as
// Genkit does not build beside the SDKs of sdktest.
package genkit
