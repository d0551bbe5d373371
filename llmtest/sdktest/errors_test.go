package sdktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/ai/azopenai"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	cohere "github.com/cohere-ai/cohere-go/v2"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
	"github.com/llmqueue/llmqueue/llmtest"
)

// What the simulated errors of Amazon, Cohere and Azure are to their SDKs.

func bedrockClient(srv *llmtest.Server) *bedrockruntime.Client {
	return bedrockruntime.New(bedrockruntime.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(srv.URL()), HTTPClient: srv.Client(), Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider("secret", "any", ""),
	})
}

func TestBedrock(t *testing.T) {
	model := aws.String("arn:aws:bedrock:us-east-1:1:inference-profile/us.m")
	messages := []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: question}}}}
	limit := &types.InferenceConfiguration{MaxTokens: aws.Int32(10)}
	unary := &bedrockruntime.ConverseInput{ModelId: model, Messages: messages, InferenceConfig: limit}
	stream := &bedrockruntime.ConverseStreamInput{ModelId: model, Messages: messages, InferenceConfig: limit}

	inBubble(t, "unary", func(t *testing.T) {
		srv, start := serve(t, llmtest.Bedrock()), time.Now()
		res, err := bedrockClient(srv).Converse(t.Context(), unary)
		if err != nil {
			t.Fatal(err)
		}
		took(t, start, answerTime-200*time.Millisecond)
		wantWords(t, res.Output.(*types.ConverseOutputMemberMessage).Value.Content[0].(*types.ContentBlockMemberText).Value, 10)
		if u := res.Usage; *u.InputTokens != 4 || *u.OutputTokens != 10 || *u.TotalTokens != 14 || res.StopReason != types.StopReasonMaxTokens || *res.Metrics.LatencyMs != 1900 {
			t.Errorf("usage %+v, stop %s, %d ms", u, res.StopReason, *res.Metrics.LatencyMs)
		}
		if a := srv.Arrivals()[0]; a.Model != *model {
			t.Errorf("the model is %q", a.Model)
		}
	})
	inBubble(t, "stream", func(t *testing.T) {
		res, err := bedrockClient(serve(t, llmtest.Bedrock())).ConverseStream(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		events := res.GetStream()
		defer events.Close()
		var kinds []types.ConverseStreamOutput
		for e := range events.Events() {
			kinds = append(kinds, e)
		}
		last, ok := kinds[len(kinds)-1].(*types.ConverseStreamOutputMemberMetadata)
		if err := events.Err(); err != nil || len(kinds) != 14 || !ok || *last.Value.Usage.TotalTokens != 14 {
			t.Errorf("%d events, the last %+v, error %v", len(kinds), last, err)
		}
	})
	inBubble(t, "errors", func(t *testing.T) {
		client := bedrockClient(serve(t, llmtest.Bedrock(llmtest.RPM(6)), llmtest.WithFaultScript(
			llmtest.Fault{Kind: llmtest.FaultFull, Status: 429}, llmtest.Fault{Kind: llmtest.FaultFull}, llmtest.Fault{Status: 403},
			llmtest.Fault{Kind: llmtest.FaultStream, Status: 429}, llmtest.Fault{Kind: llmtest.FaultStream, Status: 424}, llmtest.Fault{Kind: llmtest.FaultCut})))
		for _, want := range []any{new(*types.ModelNotReadyException), new(*types.ServiceUnavailableException), new(*types.AccessDeniedException)} {
			if _, err := client.Converse(t.Context(), unary); !errors.As(err, want) {
				t.Errorf("error %v, want %T", err, want)
			}
		}
		for _, want := range []any{new(*types.ThrottlingException), new(*types.ModelStreamErrorException), nil} {
			res, err := client.ConverseStream(t.Context(), stream)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for range res.GetStream().Events() {
				n++
			}
			// A stream that was cut ends as if it were whole: what the SDK's user has to know.
			if err := res.GetStream().Err(); want == nil && err != nil || want != nil && !errors.As(err, want) || n != 6 {
				t.Errorf("error %v after %d events, want %T", err, n, want)
			}
			if err := res.GetStream().Close(); want == nil && err != nil {
				t.Errorf("closed with %v", err)
			}
		}
		throttled := (*types.ThrottlingException)(nil)
		if _, err := client.Converse(t.Context(), unary); !errors.As(err, &throttled) || throttled.ErrorMessage() != "Too many requests, please wait before trying again." {
			t.Errorf("error %v", err)
		}
	})
}

// TestBedrockInvoke has the queue book the usage of a model's own protocol.
func TestBedrockInvoke(t *testing.T) {
	body := []byte(`{"anthropic_version":"bedrock-2023-05-31","max_tokens":10,"messages":[{"role":"user","content":"` + question + `"}]}`)
	for _, stream := range []bool{false, true} {
		inBubble(t, fmt.Sprintf("stream=%v", stream), func(t *testing.T) {
			srv := serve(t, llmtest.Bedrock())
			client := bedrockClient(srv)
			q, err := llmqueue.NewQueue("m", func(ctx context.Context, _ llmqueue.Request[string]) (n int, err error) {
				use := func(o *bedrockruntime.Options) {
					o.HTTPClient = &http.Client{Transport: llmhttp.NewTransport(srv.Client().Transport)}
				}
				if !stream {
					res, err := client.InvokeModel(ctx, &bedrockruntime.InvokeModelInput{ModelId: aws.String("m"), Body: body}, use)
					if err != nil {
						return 0, err
					}
					return bytes.Count(res.Body, []byte(`"type":"text"`)), nil
				}
				res, err := client.InvokeModelWithResponseStream(ctx, &bedrockruntime.InvokeModelWithResponseStreamInput{ModelId: aws.String("m"), Body: body}, use)
				if err != nil {
					return 0, err
				}
				defer res.GetStream().Close()
				for e := range res.GetStream().Events() {
					if chunk, ok := e.(*types.ResponseStreamMemberChunk); ok && bytes.Contains(chunk.Value.Bytes, []byte("text_delta")) {
						n++
					}
				}
				return n, res.GetStream().Err()
			}, llmqueue.WithUnlimited())
			if err != nil {
				t.Fatal(err)
			}
			res, err := q.Submit(t.Context(), llmqueue.Request[string]{})
			if want := map[bool]int{false: 1, true: 10}[stream]; err != nil || res.Result != want || res.Usage != (llmqueue.Usage{InputTokens: 4, OutputTokens: 10}) {
				t.Errorf("%d, want %d; usage %+v, error %v", res.Result, want, res.Usage, err)
			}
			if err := q.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestCohereErrors sees the refusal of a trial key.
func TestCohereErrors(t *testing.T) {
	inBubble(t, "limit", func(t *testing.T) {
		srv := serve(t, llmtest.Cohere(llmtest.RPM(1)), llmtest.WithKey("any"))
		ask := cohereChat(t, srv.Client(), srv.URL(), false)
		if _, err := ask(t.Context(), question); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, err := ask(t.Context(), question)
		if refused := (*cohere.TooManyRequestsError)(nil); !errors.As(err, &refused) || refused.StatusCode != http.StatusTooManyRequests {
			t.Errorf("error %v", err)
		}
		took(t, start, 500*time.Millisecond) // which it sleeps after any failure, although it does not retry
	})
}

// TestAzureRetries has azcore retry unless it is told not to: 0 is its default of three.
func TestAzureRetries(t *testing.T) {
	for retries, want := range map[int32]int64{0: 4, -1: 1} {
		inBubble(t, "", func(t *testing.T) {
			srv := serve(t, llmtest.AzureOpenAI(), llmtest.WithFaultShare(1, llmtest.Fault{Status: 503}))
			client, err := azopenai.NewClientWithKeyCredential(srv.URL(), azcore.NewKeyCredential("secret"), &azopenai.ClientOptions{ClientOptions: azcore.ClientOptions{
				Transport: srv.Client(), Retry: policy.RetryOptions{MaxRetries: retries}, InsecureAllowCredentialWithHTTP: true,
			}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.GetChatCompletions(t.Context(), azopenai.ChatCompletionsOptions{
				DeploymentName: aws.String("prod"),
				Messages:       []azopenai.ChatRequestMessageClassification{&azopenai.ChatRequestUserMessage{Content: azopenai.NewChatRequestUserMessageContent(question)}},
			}, nil)
			failed := (*azcore.ResponseError)(nil)
			if !errors.As(err, &failed) || failed.StatusCode != 503 || srv.Stats().Failed != want {
				t.Errorf("MaxRetries %d: %d calls, want %d: %v", retries, srv.Stats().Failed, want, err)
			}
		})
	}
}
