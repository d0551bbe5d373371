package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	einoopenai "github.com/cloudwego/eino-ext/components/model/openai"
	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/components/tool/utils"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/flow/agent/react"
	"github.com/cloudwego/eino/schema"

	"github.com/llmqueue/llmqueue/examples/internal/service"
)

var cities = []string{"Bergen", "Cairo", "Lima", "Oslo", "Perth"}

// toolCallsPerRun is how many tool calls a run needs: two for each city.
var toolCallsPerRun = 2 * len(cities)

// agent is an agent with two tools, of Eino's. It knows nothing of a queue. Safe for concurrent use.
type agent struct {
	*react.Agent
	toolCalls atomic.Int64 // that were made
}

type place struct {
	City string `json:"city" jsonschema:"description=the name of a city"`
}

// newAgent returns an agent whose calls of the model go through transport.
func newAgent(ctx context.Context, model string, from *service.Service, key string, transport http.RoundTripper) (*agent, error) {
	if from.Simulated() {
		key = service.Key
	}
	maxTokens := 60
	llm, err := einoopenai.NewChatModel(ctx, &einoopenai.ChatModelConfig{
		APIKey: key, BaseURL: from.URL, Model: model, MaxCompletionTokens: &maxTokens,
		HTTPClient: &http.Client{Transport: transport},
	})
	if err != nil {
		return nil, err
	}
	a := new(agent)
	weather, err := utils.InferTool("weather", "today's weather in a city", func(_ context.Context, p *place) (string, error) {
		a.toolCalls.Add(1)
		return fmt.Sprintf("%d °C in %s", 10+len(p.City), p.City), nil
	})
	if err != nil {
		return nil, err
	}
	packing, err := utils.InferTool("packing_list", "what to pack for a city", func(_ context.Context, p *place) (string, error) {
		a.toolCalls.Add(1)
		return "a coat for " + p.City, nil
	})
	if err != nil {
		return nil, err
	}
	a.Agent, err = react.NewAgent(ctx, &react.AgentConfig{
		ToolCallingModel: llm,
		ToolsConfig:      compose.ToolsNodeConfig{Tools: []tool.BaseTool{weather, packing}},
		MaxStep:          2*toolCallsPerRun + 5,
	})
	return a, err
}

// run is one run of the agent: a call of the model for each tool call, and one for the answer.
func (a *agent) run(ctx context.Context) (string, error) {
	answer, err := a.Generate(ctx, []*schema.Message{
		schema.UserMessage("What do I pack for a journey through " + strings.Join(cities, ", ") + "? Ask the tools about each city in turn."),
	})
	if err != nil {
		return "", err
	}
	return answer.Content, nil
}
