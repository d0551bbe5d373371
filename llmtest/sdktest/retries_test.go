package sdktest

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"

	"charm.land/fantasy"
	"github.com/Azure/azure-sdk-for-go/sdk/ai/azopenai"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime"
	"github.com/aws/aws-sdk-go-v2/service/bedrockruntime/types"
	cohere "github.com/cohere-ai/cohere-go/v2"
	cohereclient "github.com/cohere-ai/cohere-go/v2/client"
	cohereoption "github.com/cohere-ai/cohere-go/v2/option"

	"github.com/llmqueue/llmqueue"
	"github.com/llmqueue/llmqueue/llmhttp"
)

// How often clients call that do not know X-Should-Retry, when the queue refuses with a 429 and
// their own retries are left on, as docs/guides/providers.md says it.
func TestOwnRetries(t *testing.T) {
	message := []types.Message{{Role: types.ConversationRoleUser, Content: []types.ContentBlock{&types.ContentBlockMemberText{Value: question}}}}
	for name, c := range map[string]struct {
		calls int64
		ask   func(t *testing.T, ctx context.Context, client *http.Client) error
	}{
		"azopenai": {4, func(t *testing.T, ctx context.Context, client *http.Client) error {
			c, err := azopenai.NewClientWithKeyCredential("http://provider.invalid", azcore.NewKeyCredential("any"), &azopenai.ClientOptions{
				ClientOptions: azcore.ClientOptions{Transport: client, InsecureAllowCredentialWithHTTP: true},
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.GetChatCompletions(ctx, azopenai.ChatCompletionsOptions{
				DeploymentName: aws.String("m"),
				Messages:       []azopenai.ChatRequestMessageClassification{&azopenai.ChatRequestUserMessage{Content: azopenai.NewChatRequestUserMessageContent(question)}},
			}, nil)
			return err
		}},
		"bedrockruntime": {3, func(_ *testing.T, ctx context.Context, client *http.Client) error {
			c := bedrockruntime.New(bedrockruntime.Options{
				Region: "us-east-1", BaseEndpoint: aws.String("http://provider.invalid"), HTTPClient: client,
				Credentials: credentials.NewStaticCredentialsProvider("any", "any", ""),
			})
			_, err := c.Converse(ctx, &bedrockruntime.ConverseInput{ModelId: aws.String("m"), Messages: message})
			return err
		}},
		"cohere-go": {2, func(_ *testing.T, ctx context.Context, client *http.Client) error {
			c := cohereclient.NewClient(cohereoption.WithBaseURL("http://provider.invalid"), cohereoption.WithHTTPClient(client), cohereoption.WithToken("any"))
			_, err := c.V2.Chat(ctx, &cohere.V2ChatRequest{Model: "m", Messages: cohere.ChatMessages{{Role: "user", User: &cohere.UserMessageV2{Content: &cohere.UserMessageV2Content{String: question}}}}})
			return err
		}},
		"fantasy's agent": {3, func(t *testing.T, ctx context.Context, client *http.Client) error {
			_, err := fantasy.NewAgent(fantasyModel(t, client, "http://provider.invalid")).Generate(ctx, fantasy.AgentCall{Prompt: question})
			return err
		}},
		"fantasy's agent, told": {1, func(t *testing.T, ctx context.Context, client *http.Client) error {
			_, err := fantasy.NewAgent(fantasyModel(t, client, "http://provider.invalid"), fantasy.WithMaxRetries(0)).Generate(ctx, fantasy.AgentCall{Prompt: question})
			return err
		}},
	} {
		inBubble(t, name, func(t *testing.T) {
			q, err := llmqueue.NewQueue("m", nothingProcessed, llmqueue.WithLimits(llmqueue.Concurrent(1)), llmqueue.WithMaxQueued(1))
			if err != nil {
				t.Fatal(err)
			}
			others, leave := context.WithCancel(t.Context())
			for range 2 { // one runs, and one waits: the queue is full
				go func() { _, _ = q.Acquire(others, llmqueue.Claim{}) }()
				synctest.Wait()
			}
			tr := &countingTransport{next: llmhttp.NewQueueTransport(q, nil)}
			if err := c.ask(t, t.Context(), &http.Client{Transport: tr}); err == nil || tr.calls.Load() != c.calls {
				t.Errorf("%d calls, want %d: %v", tr.calls.Load(), c.calls, err)
			}
			leave()
			if err := q.Shutdown(context.Background()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
