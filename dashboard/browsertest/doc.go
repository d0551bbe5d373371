// Package browsertest drives the dashboard in a real browser: headless Chromium. Its
// tests are skipped where no browser is installed. They look for the program that the
// environment variable CHROME names, or else for one with a usual name.
//
// This also renews the pictures in docs/images, from a dashboard that runs:
//
//	go run ./examples/dashboard &
//	go test ./dashboard/browsertest -run TestScreenshots -of http://127.0.0.1:8080/debug/llmqueue/ -screenshots "$PWD/docs/images"
package browsertest
