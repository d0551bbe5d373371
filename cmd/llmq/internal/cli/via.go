package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/llmqueue/llmqueue/cmd/llmq/internal/batch"
)

// viaFlags say whether requests are called one by one or handed over in batches.
type viaFlags struct {
	via      string
	cancel   bool
	deadline time.Duration
}

func (f *viaFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.via, "via", "calls", "calls: one for each request, under the limits; batch: the provider's batches (OpenAI, Anthropic, Gemini), at half the price and within 24 h; flex: calls at the provider's tier of that name (OpenAI, Azure, Gemini), at half the price and slower")
	fs.DurationVar(&f.deadline, "deadline", 0, "with --via batch: cancel a batch so long after its submission, and go on by calls with what it has not done")
	fs.BoolVar(&f.cancel, "cancel", false, "with --via batch: cancel the batches of earlier runs, and keep what they have done")
}

// read is what the flags come to for a provider and an input.
func (f *viaFlags) read(p provider, input string) (v batch.ViaBatch, err error) {
	switch {
	case f.via != "calls" && f.via != "batch" && f.via != "flex":
		return v, fmt.Errorf("--via %q: want calls, batch or flex", f.via)
	case f.via != "batch" && (f.cancel || f.deadline != 0):
		return v, errors.New("--deadline and --cancel go with --via batch")
	case f.via == "calls":
		return v, nil
	case f.via == "flex" && p.suffix == "api.groq.com":
		return v, errors.New("--via flex is for tiers at half the price, and that of api.groq.com costs the same: put \"service_tier\":\"flex\" into the bodies (--set service_tier=flex with --template)")
	case f.via == "flex" && !p.flex:
		return v, fmt.Errorf("--via flex asks for a tier of OpenAI, Azure and Gemini, which %s does not have: run without it", p.suffix)
	case f.via == "flex":
		return batch.ViaBatch{Flex: true}, nil
	case f.deadline < 0:
		return v, fmt.Errorf("--deadline %v: want more than 0", f.deadline)
	case input == "-":
		return v, errors.New("--via batch needs a file: what comes by stdin cannot be read again")
	case p.suffix != "" && p.suffix != "api.openai.com" && p.suffix != "api.anthropic.com" && p.suffix != gemini:
		return v, fmt.Errorf("--via batch speaks the batch APIs of OpenAI, Anthropic and Gemini, which %s does not have: run without it", p.suffix)
	}
	return batch.ViaBatch{On: true, Cancel: f.cancel, Deadline: f.deadline}, nil
}
