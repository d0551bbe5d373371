package llmhttp

import (
	"net/url"
	"strings"
)

// ModelCall is what a request asks of a model. The zero value is a request that asks no
// model, such as a list of models or the upload of a file.
type ModelCall struct {
	// Asks says that the request asks a model, by its name or by its path. One that counts
	// tokens, begins a batch or is about a model does not.
	Asks bool
	// Model is its name as the request has it: the member "model" of the body, else a part of
	// the path (Gemini, Vertex AI, Bedrock, an Azure deployment). It is empty when the request
	// names none, as some servers allow, or when its body cannot be read.
	Model string
	// Stream says that the answer is to come in parts. Ollama does that unless it is told not
	// to, which only its answer shows.
	Stream bool
	// InputTokens is an estimate from the text of the request: see llmqueue.EstimateTokens. Each
	// message counts 4 more, and so does their beginning (OpenAI's cookbook on counting tokens);
	// token ids count one each, images and other data 1,000 each: providers charge from 85 to some
	// 3,000 (OpenAI's, Anthropic's and Google's guides to images and documents). Zero means that
	// nothing is known.
	InputTokens int64
	// MaxOutputTokens is the bound that the request sets, for all answers that it asks for
	// together. Zero means none.
	MaxOutputTokens int64
	// NoOutput says that the answer has no output tokens: of embeddings, for example.
	NoOutput bool
}

// ParseRequest reads what a request asks of a model, the twin of [ParseUsage]. path is that of
// its URL, escaped or not; body is its JSON, as far as it is known. It understands who speaks as
// OpenAI, Anthropic, Gemini, Vertex AI, Bedrock, Cohere or Ollama does. No input makes it panic.
func ParseRequest(path string, body []byte) ModelCall {
	var s requestScanner
	_, _ = s.Write(body)
	return s.call(path)
}

// call is what a body says together with its path.
func (s *requestScanner) call(path string) ModelCall {
	lower := strings.ToLower(path)
	for end := range strings.FieldsSeq(noCalls) {
		if strings.HasSuffix(lower, end) {
			return ModelCall{}
		}
	}
	c := ModelCall{Model: s.model, Stream: s.stream, InputTokens: s.tokens()}
	model, sure := modelInPath(path)
	if sure || c.Model == "" {
		c.Model = model
	}
	c.Model = strings.TrimPrefix(c.Model, "models/") // Gemini's SDKs have it in bodies as well
	for word := range strings.FieldsSeq(noOutput) {
		c.NoOutput = c.NoOutput || strings.Contains(lower, word)
	}
	for word := range strings.FieldsSeq(streamPaths) {
		c.Stream = c.Stream || strings.Contains(lower, word)
	}
	if !c.NoOutput && s.bound > 0 {
		c.MaxOutputTokens = s.bound * max(s.answers, 1)
	}
	c.Asks = c.Model != ""
	for end := range strings.FieldsSeq(callPaths) {
		c.Asks = c.Asks || strings.HasSuffix(lower, end)
	}
	if !c.Asks {
		return ModelCall{}
	}
	return c
}

const (
	// noCalls is how paths end whose requests make no call of a model, though they may name one.
	noCalls = `/count_tokens /count-tokens :counttokens /input_tokens /tokenize /detokenize
		/fine_tuning/jobs /fine-tunes /assistants /batches /files /uploads /evals /vector_stores
		:batchgeneratecontent :asyncbatchembedcontent /cachedcontents /model-invocation-job
		/client_secrets /realtime/sessions /realtime/transcription_sessions
		/api/show /api/pull /api/push /api/create /api/copy /api/delete /api/blobs`
	// callPaths is how paths end whose requests ask a model also when they name none.
	callPaths = `/completions /responses /messages /embeddings /embed /rerank /moderations /v1/chat /v2/chat
		/api/chat /api/generate /api/embed /generate /generate_stream /images/generations /images/edits
		/audio/speech /audio/transcriptions /audio/translations`
	// noOutput is what paths hold whose answers have no output tokens.
	noOutput = "/embed embedcontent /moderations /rerank /classify"
	// streamPaths is what paths hold whose answers are streams.
	streamPaths = ":stream /converse-stream /invoke-with-response-stream"
)

// modelPaths are where a path names the model. An entry that is sure wins over the body's.
var modelPaths = []struct {
	before, after string // the name is between; without after, it is the rest of the path
	sure          bool
}{
	{"/openai/deployments/", "/", true},       // Azure
	{"/publishers/google/models/", ":", true}, // Vertex AI
	{"/publishers/", ":", true},               // and what it has of others: the last segment
	{"/endpoints/", ":", true},
	{"/models/", ":", true},      // Gemini
	{"/tunedModels/", ":", true}, // and what was tuned there
	{"/model/", "/", true},       // Bedrock
	{"/engines/", "/", true},
	{"/models/", "/predictions", false}, // Replicate
	{"/ai/run/", "", false},             // Cloudflare
	{"/models/", "", false},             // Hugging Face
}

// modelInPath is the model that a path names.
func modelInPath(path string) (model string, sure bool) {
	for _, p := range modelPaths {
		_, name, found := strings.Cut(path, p.before)
		if !found || name == "" {
			continue
		}
		if p.after != "" {
			if name, _, found = strings.Cut(name, p.after); !found {
				continue
			}
		}
		if p.after == ":" { // of publishers/anthropic/models/NAME
			name = name[strings.LastIndexByte(name, '/')+1:]
		}
		if plain, err := url.PathUnescape(name); err == nil {
			name = plain
		}
		return name, p.sure
	}
	return "", false
}
