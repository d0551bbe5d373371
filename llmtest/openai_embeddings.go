package llmtest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
)

// OpenAI's embeddings.

// embeddingRequest is what the server reads of a request's body.
type embeddingRequest struct {
	Model          string         `json:"model"`
	Input          embeddingInput `json:"input"`
	Dimensions     *int64         `json:"dimensions"`
	EncodingFormat string         `json:"encoding_format"`
}

// embeddingInput is a string, an array of strings, an array of token numbers or
// an array of such arrays.
type embeddingInput []embedded

// embedded is one input: its size and what tells it from others.
type embedded struct {
	tokens int64
	hash   uint64
}

func (in *embeddingInput) UnmarshalJSON(data []byte) error {
	if one, err := embeddedOf(data); err == nil {
		*in = embeddingInput{one}
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil {
		return err
	}
	for _, item := range items {
		e, err := embeddedOf(item)
		if err != nil {
			return err
		}
		*in = append(*in, e)
	}
	return nil
}

func embeddedOf(data []byte) (embedded, error) {
	var text string
	if json.Unmarshal(data, &text) == nil {
		return embedded{bytesToTokens(len(text)), hash([]byte(text))}, nil
	}
	var tokens []int64
	if json.Unmarshal(data, &tokens) == nil && len(tokens) > 0 {
		return embedded{int64(len(tokens)), hash(data)}, nil
	}
	return embedded{}, errors.New("input is neither text nor tokens nor an array of them")
}

// maxDimensions is that of OpenAI's largest embedding model; 1536 is the default
// of the small one.
const (
	maxDimensions     = 3072
	defaultDimensions = 1536
)

// embeddings reads a request for embeddings. The model may come from the path.
func (d openAI) embeddings(model string) operation {
	return func(_ *http.Request, body []byte) (c call, _ format, p *problem) {
		var req embeddingRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return c, nil, unreadable(err)
		}
		if model != "" {
			req.Model = model
		}
		switch {
		case req.Model == "":
			return c, nil, missing("model")
		case len(req.Input) == 0:
			return c, nil, missing("input")
		case req.Dimensions != nil && (*req.Dimensions < 1 || *req.Dimensions > maxDimensions):
			return c, nil, &problem{reason: badRequest, message: "Invalid 'dimensions'.", param: "dimensions"}
		}
		c.model, c.silent = req.Model, true
		for _, in := range req.Input {
			c.input += in.tokens
		}
		return c, embeddingFormat{seed: d.config.seed, request: req}, nil
	}
}

// embeddingFormat writes vectors of length one, the same for the same input and
// seed.
type embeddingFormat struct {
	format  // an embedding is never streamed
	seed    uint64
	request embeddingRequest
}

func (f embeddingFormat) whole(a *answer) any {
	type embedding struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	type usage struct {
		PromptTokens int64 `json:"prompt_tokens"`
		TotalTokens  int64 `json:"total_tokens"`
	}
	body := struct {
		Object string      `json:"object"`
		Data   []embedding `json:"data"`
		Model  string      `json:"model"`
		Usage  usage       `json:"usage"`
	}{Object: "list", Model: a.call.model, Usage: usage{a.call.input, a.call.input}}
	for i, in := range f.request.Input {
		body.Data = append(body.Data, embedding{"embedding", i, f.encode(f.vector(in))})
	}
	return body
}

func (embeddingFormat) failed(_ *answer, p *problem) any { return openAIErrorOf(p) }

func (f embeddingFormat) vector(in embedded) []float32 {
	n := int64(defaultDimensions)
	if f.request.Dimensions != nil {
		n = *f.request.Dimensions
	}
	r := rand.New(rand.NewPCG(f.seed, in.hash))
	v := make([]float32, n)
	var sum float64
	for i := range v {
		x := r.NormFloat64()
		v[i] = float32(x)
		sum += x * x
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}

// encode returns the vector as the request wants it: numbers, or their bytes,
// the lowest first, as base64.
func (f embeddingFormat) encode(v []float32) any {
	if f.request.EncodingFormat != "base64" {
		return v
	}
	data := make([]byte, 0, 4*len(v))
	for _, x := range v {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return base64.StdEncoding.EncodeToString(data)
}
