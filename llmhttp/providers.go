package llmhttp

import (
	"net/http"
	"strings"
	"time"
)

// origin is where an answer comes from.
type origin struct {
	host   string // that was asked; empty when it is not known
	method string // of the request
	header http.Header
}

// provider is what is known of who answers, beyond what many have in common. To add one, add a
// row, and a recorded answer with its source to testdata/answers.jsonl.
type provider struct {
	name   string
	source string // where it says so

	// It is recognized by the end of the host's name, by a header that only it sends, or by
	// what its errors look like.
	hosts   string
	headers string
	shape   func(*evidence) bool

	// rules are for its failures, before all others. Those in distinct count from whoever
	// says so, because nobody else does.
	rules    []rule
	distinct []rule

	code *pattern // finds its code in a sentence, which tells as well who it is

	zone *time.Location // of the times without one in its sentences; nil: UTC
}

// recognize finds out who speaks; nil when nobody is known.
func recognize(from origin, f *evidence) *provider {
	for i := range providers {
		p := &providers[i]
		for host := range strings.FieldsSeq(p.hosts) {
			if from.host == host || strings.HasSuffix(from.host, "."+host) {
				return p
			}
		}
	}
	for i := range providers {
		p := &providers[i]
		for name := range strings.FieldsSeq(p.headers) {
			if from.header.Get(name) != "" {
				return p
			}
		}
		if p.shape != nil && p.shape(f) || p.findCode(f) {
			return p
		}
	}
	return nil
}

// findCode adds a code that stands in the sentence to the words.
func (p *provider) findCode(f *evidence) bool {
	if p.code == nil {
		return false
	}
	m := p.code.compile().FindStringSubmatch(f.sentence)
	if m != nil {
		f.e.say(ranks-1, m[1])
	}
	return m != nil
}

// distinctRules are those of all providers that count from everyone.
func distinctRules() []rule {
	var all []rule
	for i := range providers {
		all = append(all, providers[i].distinct...)
	}
	return all
}

var china = time.FixedZone("UTC+8", 8*60*60)

var providers = []provider{
	{
		name: "Gemini and Vertex AI", source: "ai.google.dev/gemini-api/docs/troubleshooting, cloud.google.com/vertex-ai error 429",
		hosts: "googleapis.com",
		shape: func(f *evidence) bool { return f.broken() || f.hasWord("RESOURCE_EXHAUSTED") },
		rules: []rule{
			{words: "modelcapacityexhausted", means: overloaded},
			{says: sentence(`doesn't have a free quota tier`), means: elsewhere},
			{status: "429 402", says: spent, unless: sentence(`exceeded your current quota`), means: exhausted},
			{status: "429", words: "quotaexhausted insufficient*balance", means: exhausted},
			{says: sentence(`\blimit: 0(?:[^\d.]|\.\D|\.?$)`), status: "429", means: elsewhere}, // the account has no part in that model
			{test: func(f *evidence) bool { return f.e.never() }, status: "429", means: elsewhere},
			{test: func(f *evidence) bool { return f.e.perDay() }, status: "429", means: exhausted},
			{says: sentence(`individual quota reached`, `per[ _]day\b`), unless: sentence(`per[ _]minute`), status: "429", means: exhausted},
			// Vertex has no quota, but no room either.
			{status: "429", words: "resourceexhausted", means: overloaded, unless: sentence(`\bquota\b`, `spend\w* cap`),
				test: func(f *evidence) bool {
					return f.e.wait == "" && !f.broken() && !f.hinted() && !f.hasWord("RATE_LIMIT_EXCEEDED")
				}},
			{status: "429", means: limited},
		},
	},
	{
		name: "Zhipu and z.ai", source: "docs.bigmodel.cn/cn/api/api-code, docs.z.ai/api-reference/api-code",
		hosts: "bigmodel.cn z.ai", zone: china,
		shape: (*evidence).fourDigits,
		code:  sentence(`^\[(1[0-3]\d\d)\]\[`),
		rules: []rule{
			{words: "1113 1308 1309 1310 1304", means: exhausted},
			{words: "1302 1303", means: limited},
			{words: "1305 1312", means: overloaded},
			{words: "1120 1230 1234", means: retryable},
			{words: "1261 1301 1210 1212 1213 1214 1215 1300", means: fatal},
			{words: "1000 1001 1002 1003 1004 1110 1111 1112 1121 1211 1220 1221 1222 1311 1313", means: elsewhere},
		},
	},
	{
		name: "MiniMax", source: "platform.minimax.io/docs/api-reference/errorcode",
		hosts: "minimax.io minimaxi.com minimax.chat",
		shape: func(f *evidence) bool { return f.e.alarm == "base_resp.status_code" },
		code:  sentence(`\((1[0-3]\d\d|20[0-6]\d)\)\s*$`),
		rules: []rule{
			{words: "2045", means: slow},
			{words: "1002 1039 1041", means: limited},
			{words: "1008 2056 2067", means: exhausted},
			{words: "1004 2049 2061", means: elsewhere},
			{words: "1026 1027 1042 2013", means: fatal},
			{words: "1000 1001 1013 1024 1033", means: retryable},
		},
	},
	{
		name: "DashScope", source: "alibabacloud.com/help/en/model-studio/error-code",
		hosts: "aliyuncs.com", headers: "X-Dashscope-Request-Id X-Dashscope-Call-Gateway",
		shape: func(f *evidence) bool { return dashScope.matches(f.sentence) },
		rules: []rule{
			{words: "allocationquotafreetieronly", means: exhausted},
			{says: sentence(`free (?:tier|allocated|quota)[^.]*(?:exhausted|exceeded|used up|expired)`), means: exhausted},
			{says: lacking, means: overloaded},
			{says: sentence(`system capacity`), means: overloaded},
			{says: tooFast, means: slow},
			{words: "insufficientquota throttling* limitrequests limitburst*", means: limited},
		},
		distinct: []rule{
			{words: "arrearage", means: exhausted},
			{says: sentence(`system capacity limits`), means: overloaded},
			{words: "throttlingburstrate limitburst*", means: slow},
			{words: "throttlingratequota throttlingallocationquota limitrequests", unless: sentence(`free (?:tier|allocated)`), means: limited},
		},
	},
	{
		name: "Volcengine", source: "volcengine.com/docs/82379/1299023",
		hosts: "volces.com volcengine.com bytepluses.com", zone: china,
		distinct: []rule{
			{words: "accountoverdueerror setlimitexceeded accountquotaexceeded", means: exhausted},
			{words: "requestbursttoofast", means: slow},
			{words: "*tpdexceeded *rpdexceeded", means: exhausted},
			{words: "ratelimitexceeded*exceeded modelaccountrpm* modelaccounttpm* modelaccountipm* accountratelimitexceeded inflightbatchsizeexceeded", status: "429", unless: spent, means: limited, test: notTooLong},
			{words: "serveroverloaded modelloadingerror", means: overloaded},
		},
	},
	{
		name: "Together", source: "docs.together.ai/docs/error-codes",
		hosts: "together.xyz together.ai",
		rules: []rule{{words: "creditlimit", status: "402", means: exhausted}},
	},
	{
		name: "Cohere", source: "docs.cohere.com/reference/errors",
		hosts: "cohere.com cohere.ai",
		distinct: []rule{
			{says: sentence(`trial key[^.]*/ ?month`), means: exhausted},
			{says: sentence(`trial key[^.]*/ ?minute`), means: limited},
		},
	},
	{
		name: "Groq", source: "console.groq.com/docs/errors",
		hosts: "groq.com", headers: "X-Groq-Region",
		rules: []rule{{status: "498", means: overloaded}},
	},
	{
		name: "Anthropic", source: "docs.anthropic.com/en/api/errors, platform.claude.com/docs/en/api/rate-limits",
		hosts: "anthropic.com", headers: "Anthropic-Organization-Id",
		distinct: []rule{
			{says: sentence(`reached your specified api usage limits`, `credit balance is too low`, `(?:out of|draw from(?: your)?) extra usage`), means: exhausted},
		},
	},
	{
		name: "Bedrock", source: "docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html",
		hosts: "amazonaws.com", headers: "X-Amzn-Errortype X-Amzn-Requestid",
		distinct: []rule{
			{says: sentence(`too many tokens per day`), means: exhausted},
			{words: "servicequotaexceededexception", means: limited},
			{words: "throttlingexception", unless: windowSpent, means: limited},
		},
	},
	{
		name: "Baidu Qianfan", source: "cloud.baidu.com/doc/qianfan-api/s/hlzic283e",
		hosts: "baidubce.com", zone: china,
		shape: (*evidence).sixDigits,
		rules: []rule{
			{words: "4 18 336501 336502 336503 336504 336505 336507", means: limited},
			{words: "17 19", means: exhausted},
			{words: "6 13 14 15 100 110 111 336004 336005", means: elsewhere},
			{words: "336003 336006 336007 336102 336104 336106", means: fatal},
			{words: "336100", means: overloaded},
			{words: "1 2 336000", means: retryable},
		},
	},
}

var dashScope = sentence(`aliyun\.com|alibabacloud\.com|dashscope|model-studio`)

func notTooLong(f *evidence) bool { return !largerThanLimit(f) }

// hasWord reports whether one of the failure's words is that one.
func (f *evidence) hasWord(word string) bool {
	for w := range f.e.words {
		if w == word {
			return true
		}
	}
	return false
}

// broken reports whether the failure names a quota of Google's.
func (f *evidence) broken() bool {
	for e := f.e; e != nil; e = e.upstream {
		if len(e.quotas) > 0 {
			return true
		}
	}
	return false
}

// sixDigits reports whether a word is one of Baidu's numbers.
func (f *evidence) sixDigits() bool {
	for w := range f.e.words {
		if len(w) == 6 && strings.HasPrefix(w, "336") && strings.Trim(w, "0123456789") == "" {
			return true
		}
	}
	return false
}

// fourDigits reports whether the error's object has a number of four digits for a code. Those
// of Mistral stand outside of one.
func (f *evidence) fourDigits() bool {
	for e := f.e; e != nil; e = e.upstream {
		for _, rank := range e.ranked[:topRank] {
			for _, w := range rank {
				if len(w) == 4 && w[0] == '1' && strings.Trim(w, "0123456789") == "" {
					return true
				}
			}
		}
	}
	return false
}
