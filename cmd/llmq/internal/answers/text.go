package answers

import (
	"encoding/json"
	"strings"
)

// content is a text, or a list of parts that have one.
type content string

func (c *content) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*c = content(text)
		return nil
	}
	var parts []struct {
		Text    string          `json:"text"`
		Refusal string          `json:"refusal"`
		Thought bool            `json:"thought"` // of Gemini
		Name    string          `json:"name"`
		Input   json.RawMessage `json:"input"` // of a tool_use
		Call    json.RawMessage `json:"functionCall"`
		ToolUse json.RawMessage `json:"toolUse"`
	}
	if json.Unmarshal(data, &parts) != nil {
		return nil // nothing that is known
	}
	var b strings.Builder
	for _, p := range parts {
		switch {
		case p.Thought:
		case p.Input != nil:
			line(&b, p.Name+" "+string(p.Input))
		case p.Call != nil:
			line(&b, string(p.Call))
		case p.ToolUse != nil:
			line(&b, string(p.ToolUse))
		default:
			b.WriteString(p.Text + p.Refusal)
		}
	}
	*c = content(b.String())
	return nil
}

// line adds a line.
func line(b *strings.Builder, text string) {
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(text)
}

type message struct {
	Content   content `json:"content"`
	Refusal   string  `json:"refusal"`
	ToolCalls []struct {
		Function struct {
			Name      string `json:"name"`
			Arguments any    `json:"arguments"` // a text, of Ollama an object
		} `json:"function"`
	} `json:"tool_calls"`
}

func (m message) text() string {
	var b strings.Builder
	b.WriteString(string(m.Content) + m.Refusal)
	for _, call := range m.ToolCalls {
		arguments, ok := call.Function.Arguments.(string)
		if !ok {
			raw, _ := json.Marshal(call.Function.Arguments)
			arguments = string(raw)
		}
		line(&b, call.Function.Name+" "+arguments)
	}
	return b.String()
}

// answer is what is read of a body. The members are those of the providers' references:
// platform.openai.com/docs/api-reference, docs.anthropic.com/en/api/messages,
// ai.google.dev/api/generate-content, docs.aws.amazon.com/bedrock (Converse),
// docs.cohere.com/reference/chat, github.com/ollama/ollama/blob/main/docs/api.md.
type answer struct {
	Model   string `json:"model"`
	Version string `json:"modelVersion"` // of Gemini
	Error   struct {
		Message string `json:"message"`
	} `json:"error"`
	Choices []struct {
		Message message `json:"message"`
		Text    string  `json:"text"`
	} `json:"choices"`
	Output     output  `json:"output"`
	Content    content `json:"content"`
	Candidates []struct {
		Content struct {
			Parts content `json:"parts"`
		} `json:"content"`
	} `json:"candidates"`
	Message json.RawMessage `json:"message"`
}

// output is that of a response, a list of items, or of Converse.
type output string

func (o *output) UnmarshalJSON(data []byte) error {
	var converse struct {
		Message message `json:"message"`
	}
	if json.Unmarshal(data, &converse) == nil {
		*o = output(converse.Message.text())
		return nil
	}
	var items []struct {
		Type      string  `json:"type"`
		Content   content `json:"content"`
		Name      string  `json:"name"`
		Arguments string  `json:"arguments"`
	}
	_ = json.Unmarshal(data, &items)
	var b strings.Builder
	for _, item := range items {
		switch item.Type {
		case "message":
			line(&b, string(item.Content))
		case "function_call":
			line(&b, item.Name+" "+item.Arguments)
		}
	}
	*o = output(b.String())
	return nil
}

// text is what the model said, several choices one below the other. It is empty where that
// is no text, as of embeddings.
func (a *answer) text() string {
	var b strings.Builder
	for _, c := range a.Choices {
		line(&b, c.Message.text()+c.Text)
	}
	for _, c := range a.Candidates {
		line(&b, string(c.Content.Parts))
	}
	for _, text := range []string{string(a.Output), string(a.Content)} {
		if text != "" {
			line(&b, text)
		}
	}
	var m message
	if len(a.Message) > 0 && json.Unmarshal(a.Message, &m) == nil {
		line(&b, m.text())
	}
	return b.String()
}
