package batch

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/caller"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/requests"
	"github.com/llmqueue/llmqueue/cmd/llmq/internal/results"
)

// flex is the name of the tier that costs less and takes longer.
const flex = "flex"

// tierMember is the member of a body that names the tier, "" where there is none: from
// developers.openai.com/api/docs/guides/flex-processing, and models.go of
// github.com/googleapis/go-genai.
func tierMember(path string) string {
	switch {
	case strings.HasSuffix(path, "/chat/completions"), strings.HasSuffix(path, "/responses"):
		return "service_tier"
	case strings.HasSuffix(path, generateContent):
		return "serviceTier"
	}
	return ""
}

// checkTier refuses a request that has no tiers.
func (r *run) checkTier(req *requests.Request) error {
	if tierMember(req.Path) != "" {
		return nil
	}
	return r.bad(req, fmt.Errorf("%q has no tier: --via flex takes /v1/chat/completions, /v1/responses, /v1beta/models/…%s", req.Path, generateContent))
}

// body is what is sent of a request.
func (v ViaBatch) body(req *requests.Request) []byte {
	member := tierMember(req.Path)
	if !v.Flex || member == "" {
		return req.Body
	}
	return requests.Replace(req.Body, member, json.RawMessage(`"`+flex+`"`))
}

// tierOf is the tier at which a call was answered, if that is another than the usual one. An
// answer may name it; it is billed by that one.
func (v ViaBatch) tierOf(r *caller.Reply) string {
	if !v.Flex {
		return ""
	}
	var answer struct {
		Tier string `json:"service_tier"`
	}
	if json.Unmarshal(r.Body, &answer) == nil && answer.Tier != "" && answer.Tier != flex {
		return ""
	}
	return flex
}

// shareOf is what a call cost, of its usual price.
func (v ViaBatch) shareOf(r *caller.Reply) float64 {
	if v.tierOf(r) == flex {
		return results.FlexShare
	}
	return 1
}
