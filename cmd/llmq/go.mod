module github.com/llmqueue/llmqueue/cmd/llmq

go 1.25.0

require github.com/llmqueue/llmqueue v0.2.0
