module github.com/llmqueue/llmqueue/examples

go 1.25.0
