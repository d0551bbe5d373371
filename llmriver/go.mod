module github.com/llmqueue/llmqueue/llmriver

go 1.26.0

require github.com/llmqueue/llmqueue v0.2.0
