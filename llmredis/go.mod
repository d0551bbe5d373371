module github.com/llmqueue/llmqueue/llmredis

go 1.25.0

require github.com/llmqueue/llmqueue v0.2.0
