module github.com/llmqueue/llmqueue/bench

go 1.25.0
