package llmhttp_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/llmqueue/llmqueue/llmhttp"
)

// A refused key, account or model belongs elsewhere. What the request itself is to
// blame for is fatal.
func TestWhoseFault(t *testing.T) {
	for _, c := range []struct {
		name, want string
		status     int
		body       string
	}{
		// The key.
		{"openai, a wrong key", "elsewhere", 401, `{"error":{"message":"Incorrect API key provided: sk-x. You can find your API key at https://platform.openai.com.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
		{"openai, a key without permission", "elsewhere", 403, `{"error":{"message":"You have insufficient permissions for this operation. Missing scopes: model.request.","type":"invalid_request_error","param":null,"code":"missing_scope"}}`},
		{"openai, a country", "elsewhere", 403, `{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}`},
		{"azure, a wrong key", "elsewhere", 401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint."}}`},
		{"anthropic, a wrong key", "elsewhere", 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}`},
		{"anthropic, no permission", "elsewhere", 403, `{"type":"error","error":{"type":"permission_error","message":"Your API key does not have permission to use the specified resource."}}`},
		{"anthropic, a disabled organization", "elsewhere", 400, `{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}`},
		{"gemini, a wrong key is a 400", "elsewhere", 400, `{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID","domain":"googleapis.com"}]}}`},
		{"gemini, a wrong key by its reason", "elsewhere", 400, `{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}`},
		{"gemini, a wrong key by its sentence", "elsewhere", 400, `{"error":{"code":400,"message":"API key expired. Please renew the API key.","status":"INVALID_ARGUMENT"}}`},
		{"gemini, a leaked key", "elsewhere", 403, `{"error":{"code":403,"message":"Your API key was reported as leaked. Please use another API key.","status":"PERMISSION_DENIED"}}`},
		{"google, a blocked key", "elsewhere", 403, `{"error":{"code":403,"message":"Requests to this API are blocked.","status":"PERMISSION_DENIED","details":[{"reason":"API_KEY_SERVICE_BLOCKED"}]}}`},
		{"gemini, a place", "elsewhere", 400, `{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}`},
		{"bedrock, a token", "elsewhere", 403, `{"__type":"UnrecognizedClientException","message":"The security token included in the request is invalid."}`},
		{"dashscope, a wrong key as 400", "elsewhere", 400, `{"code":"InvalidApiKey","message":"Invalid API-key provided.","request_id":"r"}`},
		{"cohere, a wrong key", "elsewhere", 401, `{"message":"invalid api token"}`},
		{"an account that is blocked for what it did", "elsewhere", 403, `{"error":{"message":"Your account has been flagged for violations of our content policy."}}`},
		{"a page that forbids", "elsewhere", 403, `<html><title>Attention</title>Your request content was flagged and blocked</html>`},

		// The model.
		{"openai, no such model", "elsewhere", 404, "{\"error\":{\"message\":\"The model `gpt-9` does not exist or you do not have access to it.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}"},
		{"openai, no such model as 400", "elsewhere", 400, `{"error":{"message":"m","type":"invalid_request_error","param":null,"code":"model_not_found"}}`},
		{"openai, a model's name as 400", "elsewhere", 400, `{"error":{"message":"invalid model ID","type":"invalid_request_error","param":null,"code":null}}`},
		{"openai, the other endpoint's model", "elsewhere", 404, `{"error":{"message":"This model is only supported in v1/responses and not in v1/chat/completions.","type":"invalid_request_error","param":"model","code":null}}`},
		{"azure, no deployment", "elsewhere", 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}`},
		{"azure, no resource", "elsewhere", 404, `{"error":{"code":"404","message":"Resource not found"}}`},
		{"anthropic, no such model", "elsewhere", 404, `{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}`},
		{"gemini, no such model", "elsewhere", 404, `{"error":{"code":404,"message":"models/gemini-9 is not found for API version v1beta, or is not supported for generateContent.","status":"NOT_FOUND"}}`},
		{"gemini, no part in a model", "elsewhere", 429, geminiNever},
		{"mistral, no such model", "elsewhere", 400, `{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500"}`},
		{"groq, a model of the past", "elsewhere", 400, "{\"error\":{\"message\":\"The model `x` has been decommissioned and is no longer supported.\",\"type\":\"invalid_request_error\",\"code\":\"model_decommissioned\"}}"},
		{"groq, a model that the project may not use", "elsewhere", 403, `{"error":{"message":"m","type":"permissions_error","code":"model_permission_blocked_project"}}`},
		{"bedrock, no such model", "elsewhere", 400, `{"__type":"ValidationException","message":"The provided model identifier is invalid."}`},
		{"bedrock, a model by profile alone", "elsewhere", 400, `{"message":"Invocation of model ID x with on-demand throughput isn’t supported."}`},
		{"bedrock, no access", "elsewhere", 403, `{"message":"You don't have access to the model with the specified model ID."}`},
		{"openrouter, no such model", "elsewhere", 400, `{"error":{"message":"a/b is not a valid model ID","code":400},"user_id":"u"}`},
		{"openrouter, nobody has it", "elsewhere", 404, `{"error":{"message":"No endpoints found matching your data policy.","code":404}}`},
		{"ollama, no such model", "elsewhere", 404, `{"error":"model \"x\" not found, try pulling it first"}`},
		{"vllm, no such model", "elsewhere", 404, "{\"object\":\"error\",\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":\"model\",\"code\":404}"},
		{"volcengine, a model that is not open", "elsewhere", 404, `{"error":{"code":"ModelNotOpen","message":"m","type":"NotFound"}}`},
		{"a path that is not there", "elsewhere", 404, `404 page not found`},
		{"a page that is not there", "elsewhere", 404, `<p>The requested URL was not found. No such file.</p>`},
		{"a path among messages", "elsewhere", 404, `The requested URL /v1/messages was not found on this server.`},
		{"a model by its word, though something else is named", "elsewhere", 404, `{"error":{"message":"Not found: job ftjob-1","type":"invalid_request_error","code":"model_not_found"}}`},
		{"a model whose file is missing", "elsewhere", 404, `{"error":"model \"x\" not found: no such file"}`},
		{"a model by the param", "elsewhere", 400, `{"error":{"message":"Invalid value: 'x'.","type":"invalid_request_error","param":"model","code":"invalid_value"}}`},
		{"no explanation", "elsewhere", 404, `{"detail":"Not Found"}`},

		// Within an answer that began well.
		{"a key, within a stream", "elsewhere", 200, "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"authentication_error\",\"message\":\"m\"}}\n\n"},
		{"a permission, within a stream", "elsewhere", 200, "data: {\"type\":\"error\",\"error\":{\"type\":\"permission_error\",\"message\":\"m\"}}\n\n"},
		{"a model, within a stream", "elsewhere", 200, "data: {\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"model: x\"}}\n\n"},
		{"a key by its number, in the body", "elsewhere", 200, `{"error":{"code":401,"message":"User not found."}}`},
		{"a model, in the body", "elsewhere", 200, `{"error":{"message":"m","type":"invalid_request_error","code":"model_not_found"}}`},
		{"bedrock's words, in the body", "elsewhere", 200, `{"error":{"type":"AccessDeniedException","message":"m"}}`},
		{"ollama, no such model, in the body", "elsewhere", 200, `{"error":"model \"x\" not found"}`},
		{"too long, within a response", "fatal", 200, "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"context_length_exceeded\",\"message\":\"m\"}}}\n\n"},
		{"an unknown file, within a stream", "fatal", 200, "data: {\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":\"File not found: file_1\"}}\n\n"},

		// The request: what it names.
		{"openai, no such response", "fatal", 404, `{"error":{"message":"Previous response with id 'resp_1' not found.","type":"invalid_request_error","param":"previous_response_id","code":"previous_response_not_found"}}`},
		{"openai, no such response by its sentence", "fatal", 404, `{"error":{"message":"Response with id 'resp_1' not found.","type":"invalid_request_error","param":null,"code":null}}`},
		{"openai, no such response by its word", "fatal", 404, `{"error":{"message":"m","code":"previous_response_not_found"}}`},
		{"openai, no such file", "fatal", 404, `{"error":{"message":"No such File object: file-1","type":"invalid_request_error","param":"id","code":null}}`},
		{"openai, no such file by its param", "fatal", 404, `{"error":{"message":"m","type":"invalid_request_error","param":"file_ids","code":null}}`},
		{"openai, no such thread", "fatal", 404, `{"error":{"message":"No thread found with id 'thread_1'.","type":"invalid_request_error","param":null,"code":null}}`},
		{"openai, no such conversation", "fatal", 404, `{"error":{"message":"Conversation with id 'conv_1' not found.","type":"invalid_request_error"}}`},
		{"anthropic, no such file", "fatal", 404, `{"type":"error","error":{"type":"not_found_error","message":"File not found: file_1"}}`},
		{"gemini, no such file", "fatal", 403, `{"error":{"code":403,"message":"You do not have permission to access the File abc or it may not exist.","status":"PERMISSION_DENIED"}}`},
		{"gemini, no such cache", "fatal", 403, `{"error":{"code":403,"message":"CachedContent not found (or permission denied)","status":"PERMISSION_DENIED"}}`},

		// The request: its length.
		{"openai, too long", "fatal", 400, `{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`},
		{"llama.cpp, too long as 500", "fatal", 500, `{"error":{"code":500,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}`},
		{"too long as 500, in a sentence", "fatal", 500, `{"error":"the input exceeds the context window of the model"}`},
		{"anthropic, too long", "fatal", 400, `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}`},
		{"bedrock, too long", "fatal", 400, `{"__type":"ValidationException","message":"Input is too long for requested model."}`},

		// The request: what is not allowed.
		{"openrouter, flagged by its metadata", "fatal", 403, `{"error":{"code":403,"message":"m","metadata":{"reasons":["violence"],"flagged_input":"x","provider_name":"P"}}}`},
		{"openrouter, flagged in words", "fatal", 403, `{"error":{"code":403,"message":"Input was flagged for \"violence\"."}}`},
		{"openrouter, flagged, in the body", "fatal", 200, `{"error":{"code":403,"message":"a/b requires moderation. Your input was flagged for violence."}}`},
		{"azure, filtered", "fatal", 400, `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`},
		{"azure, filtered as 403", "fatal", 403, `{"error":{"message":"m","code":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}`},
		{"openai, an image", "fatal", 400, `{"error":{"message":"Your request was rejected as a result of our safety system.","type":"image_generation_user_error","code":"moderation_blocked"}}`},
		{"volcengine", "fatal", 400, `{"error":{"code":"InputTextSensitiveContentDetected","message":"m","type":"BadRequest"}}`},

		// The request: how it is made.
		{"a parameter that the model does not take", "fatal", 400, `{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}`},
		{"an input that the model does not take", "fatal", 400, `{"error":{"message":"Image input is not supported by this model","type":"invalid_request_error","param":null,"code":null}}`},
		{"no model given", "fatal", 400, `{"error":{"message":"you must provide a model parameter","type":"invalid_request_error","param":"model","code":null}}`},
		{"too many tokens wanted", "fatal", 400, `{"error":{"message":"max_tokens is too large: 99999. This model supports at most 16384 completion tokens.","type":"invalid_request_error","param":"max_tokens","code":null}}`},
		{"tools out of order", "fatal", 400, `{"error":{"message":"Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.","type":"invalid_request_error","param":"messages"}}`},
		{"gemini, an argument", "fatal", 400, `{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"x\": Cannot find field.","status":"INVALID_ARGUMENT"}}`},

		// Neither: it passes.
		{"a gateway without a channel for the model", "overloaded", 503, `{"error":{"message":"No available channel for model x","type":"new_api_error","code":"model_not_found"}}`},
		{"a limit that speaks of the model", "rate_limited", 429, `{"error":{"message":"Rate limit reached for model x. Request too large.","code":"rate_limit_exceeded"}}`},
		{"a limit that speaks of the context", "rate_limited", 429, `{"error":{"message":"Too many tokens this minute: lower the maximum context length or wait.","code":"rate_limit_exceeded"}}`},
		{"a gateway whose upstream has gone", "retryable", 502, `{"error":{"message":"The upstream model is not available"}}`},
		{"a reason alone, in the body", "retryable", 200, `{"choices":[{"finish_reason":"error","message":{"content":"half"}}]}`},
		{"an error before the last event", "rate_limited", 200, "data: {\"error\":{\"code\":429,\"message\":\"m\"}}\n\ndata: {\"choices\":[]}\n\n"},
		{"a model that loads", "overloaded", 503, `{"error":"Model x is currently loading, not available"}`},
		{"a fault that speaks of safety", "retryable", 500, `{"error":{"message":"The content filter failed to answer."}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := llmhttp.ParseError(c.status, nil, []byte(c.body), now)
			assert.EqualValues(t, c.want, o.Outcome)
			if c.want == "elsewhere" {
				assert.Zero(t, o.Delay)
			}
		})
	}
}
