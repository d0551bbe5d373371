// Command llmq runs files of requests against LLM providers as fast as their limits
// allow: see README.md beside it, and llmq help.
package main

import (
	"os"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
