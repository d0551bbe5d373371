package llmhttp

import (
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/llmqueue/llmqueue"
)

// rule says what a failure means that fits it. Everything that a rule has must fit.
type rule struct {
	status string   // statuses such as "429 403" or "4xx"; empty: any
	words  string   // one of the failure's plain words is one of these, in which a star stands for anything
	says   *pattern // what its sentence says
	unless *pattern // what its sentence does not say
	test   func(*evidence) bool
	means  llmqueue.Outcome
}

// judge gives what the first of the rules means that fits, or nothing.
func (f *evidence) judge(rules []rule) llmqueue.Outcome {
	for i := range rules {
		if r := &rules[i]; (r.status == "" || f.isStatus(r.status)) &&
			(r.words == "" || f.says(r.words)) &&
			(r.says == nil || r.says.matches(f.sentence)) &&
			(r.unless == nil || !r.unless.matches(f.sentence)) &&
			(r.test == nil || r.test(f)) {
			return r.means
		}
	}
	return ""
}

func (f *evidence) isStatus(statuses string) bool {
	status := strconv.Itoa(f.status)
	for s := range strings.FieldsSeq(statuses) {
		if class, ok := strings.CutSuffix(s, "xx"); s == status || ok && strings.HasPrefix(status, class) {
			return true
		}
	}
	return false
}

// says reports whether one of the failure's words is one of those.
func (f *evidence) says(words string) bool {
	return slices.ContainsFunc(f.plain, func(word string) bool { return likeAny(word, words) })
}

// likeAny reports whether a word is one of those, in which a star stands for anything.
func likeAny(word, patterns string) bool {
	for p := range strings.FieldsSeq(patterns) {
		if ok, _ := path.Match(p, word); ok {
			return true
		}
	}
	return false
}

// pattern is a regular expression, for a sentence in lower case. It is compiled when it is
// needed first. Repetitions are small or without end: counted ones make matching slow.
type pattern struct{ compile func() *regexp.Regexp }

func sentence(alternatives ...string) *pattern {
	return &pattern{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(strings.Join(alternatives, "|")) })}
}

func (p *pattern) matches(s string) bool { return p.compile().MatchString(s) }

func (p *pattern) matchesAny(words []string) bool {
	return slices.ContainsFunc(words, p.matches)
}

// statuses gives the plain words of an error that comes in the body of an answer that began
// well the status that it would have had otherwise.
var statuses = []struct {
	status int
	words  string
}{
	{401, "authenticationerror invalidapikey unauthenticated invalidauthentication* unauthorized* authfailure*"},
	{403, "permission*error permissiondenied* accessdenied* forbidden unauthorizedoperation*"},
	{404, "notfound* *notfound *notfounderror modelnotfound resourcenotfoundexception"},
	{402, "billingerror paymentrequired"},
	{413, "requesttoolarge"},
	{429, `ratelimit* *ratelimitexceeded *ratelimitreached resourceexhausted throttling* *throttlingexception slowdown toomanyrequests* dynamicrequestlimited dynamictokenlimited
		*limitexceeded* limitrequests limitburst* requestbursttoofast`},
	{503, "serverisoverloaded unavailable* serviceunavailable* modelunavailable"},
	{529, "overloadederror"},
	{400, "invalidrequest* invalidargument failedprecondition validationexception badrequest* invalidprompt invalidparameter* missingparameter validation unprocessableentity* invalidimageerror"},
}

// commonRules are for everyone, in this order: what only one provider says; faults of the one
// request; billing; capacity.
var commonRules = append(distinctRules(), []rule{
	{test: largerThanLimit, means: fatal},
	{status: "402", test: (*evidence).hinted, means: limited}, // OpenRouter: credits that come back by themselves
	{status: "402 403", says: sentence(`rate.?limit(?:ed|s? (?:\w+ )?(?:exceeded|reached|hit)\b)`, `\bexceed[^.]*rate.?limit`), unless: spent, means: limited}, // GitHub and plans of Anthropic's
	{says: sentence(`can only afford (?:0|-\d+)\b`), means: exhausted},
	{says: sentence(`can only afford \d`, `fewer max_tokens`, `long context requests?\b.*extra usage|extra usage is required for long context`), means: fatal},
	{words: "insufficient*quota creditlimit quotaexceeded quota* insufficientbalance", says: throttled, unless: sentence(`balance|recharge|per (?:day|week|month)|daily|weekly|monthly`), means: limited},
	{says: sentence(`free-models-per-(?:min|day)`), means: limited},
	{says: sentence(`enqueued token limit`), means: limited},
	{words: exhaustedWords, means: exhausted},
	{test: func(f *evidence) bool { return f.e.flagged }, means: fatal},
	{words: ownWords, means: fatal},
	{says: spent, unless: throttled, means: exhausted},
	{says: sentence(`\bopenaiexception - you exceeded your current quota`), means: exhausted}, // LiteLLM leaves out OpenAI's code
	{says: windowSpent, unless: throttled, test: passesSoon, means: limited},
	{says: windowSpent, unless: throttled, means: exhausted},
	{words: lackingWords, means: overloaded},
	{status: "429 498 5xx", says: lacking, unless: sentence(`rate.?limit`), means: overloaded},
	{says: tooLong, unless: tokenRate, means: fatal},
	{says: notAllowed, unless: refusedKey, test: ofTheRequest, means: fatal},
	{words: "*slowdown", status: "429 503", means: slow}, // OpenAI has it as 503
	{words: "dynamicrequestlimited dynamictokenlimited", status: "429", means: slow},
	{says: tooFast, status: "429", means: slow},
	{says: cold, means: overloaded},
	{status: "429", test: monthUsedUp, means: exhausted},
	{status: "429", words: "*notpurchased *notincluded *notactivated", means: elsewhere},
	{status: "400 403", words: "*quotaexceeded* *quotareached", means: exhausted},
	{status: "403", says: sentence(`quota (?:is |has been )?exceeded|exceeded (?:your |the )?(?:current )?quota|out of [^.]*\bquota`), unless: throttled, means: exhausted},
	{status: "429", says: sentence(`\b(?:limit|quota) of 0\b`), means: elsewhere},
	{words: "modelerrorexception modelstreamerrorexception modeltimeoutexception internalserverexception internalservererror", means: retryable, status: "408 424 5xx"},
}...)

const (
	limited    = llmqueue.OutcomeRateLimited
	slow       = llmqueue.OutcomeSlowDown
	overloaded = llmqueue.OutcomeOverloaded
	exhausted  = llmqueue.OutcomeQuotaExhausted
	retryable  = llmqueue.OutcomeRetryable
	elsewhere  = llmqueue.OutcomeElsewhere
	fatal      = llmqueue.OutcomeFatal
)

// passesSoon reports whether a failure says that it passes within minutes.
func passesSoon(f *evidence) bool {
	d := f.delay(f.now)
	return d > 0 && d < 10*time.Minute
}

// monthUsedUp reports whether a limit of a month is used up, of which nobody knows when it began.
func monthUsedUp(f *evidence) bool {
	return slices.ContainsFunc(f.limits, func(l llmqueue.ObservedLimit) bool {
		return l.Period >= month && l.Remaining == 0 && l.Reset == 0
	})
}

// ofTheRequest reports whether the request may be to blame: a server's fault is no verdict on it,
// but in a stream that began well many give one under a 500.
func ofTheRequest(f *evidence) bool {
	return f.status != http.StatusTooManyRequests && (f.status < 500 || f.inBody)
}

// largerThanLimit reports whether a request asks for more than the limit that it meets.
func largerThanLimit(f *evidence) bool {
	m := limitRequested.compile().FindStringSubmatch(f.sentence)
	if m == nil {
		return false
	}
	limit, _ := strconv.ParseInt(strings.ReplaceAll(m[1], ",", ""), 10, 64)
	requested, _ := strconv.ParseInt(strings.ReplaceAll(m[2], ",", ""), 10, 64)
	return limit > 0 && requested > limit
}

var (
	limitRequested = sentence(`\blimit:?\s+(\d[\d,]*)(?:,\s*used:?\s+\d[\d,]*)?,\s*requested:?\s+(\d[\d,]*)`)

	// Too much at a time, which passes.
	throttled = sentence(`\b(?:per|this|last) (?:min|sec|hour)`, `/ ?(?:min|sec)`, `rate.?limit`, `\bthrottl`, `too (?:many requests|fast|frequent)`, `\bconcurren`, `\b[rt]p[ms]\b`, `\bqps\b`, `频率|速率|并发|限流|每分钟|每秒`)
	tokenRate = sentence(`\b(?:tokens?|requests?)[^.]*\bper (?:min|sec|hour|day)|this minute`, `\b[rt]p[md]\b`, `rate.?limit`)

	tooFast = sentence(`\b(?:increas\w+|grow\w*) too (?:quickly|fast)`, `rate growth|usage increase rate|acceleration limit`, `request burst`, `slow(?:ing)? down (?:traffic|your request)`)

	// Credit, a balance or a budget is used up.
	spent = sentence(
		`insufficient (?:\w+ ){0,2}(?:balance|credits?|funds?|quota)\b`, `\b(?:not enough|no|out of|ran out of|run out of|zero) (?:\w+ ){0,2}(?:credits?|balance|funds)\b(?: left| remaining)?`,
		`\b(?:credits?|balance|funds?)\b[^.]*\b(?:too low|exhausted|depleted|used up|insufficient|not enough|negative|overdue|exceeded|expired|ran out|run out|required)`, `\bquota\b[^.]*\bnot enough`,
		`\b(?:exhausted|depleted|used up|used all|exceeded|reach(?:ed|ing))\b[^.]*\b(?:credits?|balance|budget|spend(?:ing)? (?:limit|cap))\b`, `\bkey limit exceeded|credit limit (?:exceeded|reached)`,
		`\b(?:spend(?:ing)?|budget|billing|cost)\b[^.]*\b(?:limit|cap|budget|hard limit)\b[^.]*\b(?:reached|exceeded|exhausted|hit)`,
		`\bbudget (?:has been |is |was )?(?:exceeded|exhausted|used up)|exceeded (?:\w+ ){0,3}budget|over budget`,
		`\baccount\b[^.]*\b(?:overdue|in arrears|arrearage|good standing|past due)`, `overdue (?:balance|payment|invoice|bill)`, `\bpayment (?:is )?required|outstanding (?:balance|invoice)`,
		`please (?:recharge|top.?up|purchase (?:more )?credits|add (?:more )?(?:credits?|funds))`, `monthly included credits`,
		`\b(?:free|trial) (?:trial|tier|plan|credits?|period)[^.]*\b(?:expired|ended|used up|exhausted)`, `bill is overdue`, `余额不足|欠费|余额已|请充值|账户余额`)

	// What a plan gives for a time is used up.
	windowSpent = sentence(
		`\b(?:exhausted|depleted|used up|used all|exceeded|reached|hit|over)\b[^.]*\b(?:monthly|weekly|daily|usage|session|plan|subscription|hours?) (?:\w+ ){0,2}(?:limit|cap|quota|allowance)s?\b`,
		`\b(?:usage|session|plan|subscription|weekly|monthly|daily|\d+[- ]?hour) (?:\w+ ){0,2}(?:limit|cap|quota|allowance)s? (?:\w+ ){0,6}(?:reached|exceeded|exhausted|hit|used up)`,
		`quota (?:has been |is )?(?:exhausted|used up)|exhausted your (?:capacity|quota)|free (?:tier |trial |allocated )?quota[^.]*(?:exhausted|exceeded|used up|expired)`,
		`(?:reached|exceeded|hit) the limits? of your (?:current )?(?:plan|subscription)\b`, `used up (?:your|the|its) (?:\w+ ){0,3}(?:allocation|allowance|quota|tokens|requests)`, `\b(?:are|is|been|was|were) used up\b`,
		`\b(?:exceeded|reached|exhausted) for (?:this|the) (?:current )?(?:day|week|month|billing|period|cycle)`,
		`额度已用|额度不足|配额不足|用量上限|次数已达上限|已达今日|用尽|已用完|已耗尽`)

	// The request is too long.
	tooLong = sentence(`exceed\w*\b[^.]*\bcontext[- ]?(?:length|window|size|limit)`, `\bcontext[_ -]?(?:length|window|size|limit)\b[^.]*\bexceed`,
		`max(?:imum)? (?:allowed )?(?:context|sequence|input|prompt|model)[- ]?(?:length|len|tokens?|size)\b(?:[^.]*\b(?:\d|exceed)|$)`, `\d max(?:imum)? (?:context|input) length`, `\b(?:prompt|input|request|message)s? (?:is|are|was) too (?:long|large|big)`,
		`\b(?:prompt|input|request|message)s?\b[^.]*\b(?:exceeds?|longer than|more than|larger than|above)\b[^.]*\b(?:max\w*|allowed|limit of|model'?s?|context|tokens)\b`,
		`\b(?:input )?tokens?(?: count)?\b[^.]*\bexceeds?\b[^.]*\b(?:max\w*|context|allowed|limit)`, `\brequest too large\b`, `too many (?:input |prompt )?tokens in (?:the |your )?(?:prompt|request|input|message)`,
		`must be (?:less|smaller|shorter|fewer|at most|below)[^.]*\bcontext`, `\bcontext the overflows`, `\bcontext limit is \d`, `\btokens?\b[^.]*\bmust (?:be <=|have less than) \d`, `first \d+ tokens when context`,
		`reduce (?:the length of|your (?:prompt|message|input))`, `\b(?:prompt|input)[- ]?(?:tokens?|length) (?:should be|must be|limit|exceed)`, `range of input length`,
		`(?:上下文|输入|提示词|prompt)[^。]*(?:过长|超过|超出|太长)|超过[^。]*(?:最大长度|上下文|最大输入)`)

	notAllowed = sentence(`\b(?:input|prompt|content|request|message|image|text|output|response)\b[^.]*\b(?:flagged|moderat\w+|inappropriate|prohibited|unsafe|sensitive|high risk)`,
		`\b(?:flagged|blocked|rejected|filtered)\b[^.]*\b(?:moderation|safety|content|guardrail)`, `\bblocked (?:input|output|prompt|content)`,
		`content (?:policy|management policy|filter\w*|moderation)|moderation (?:policy|failed|blocked)|safety (?:system|filter\w*|policy|settings|guidelines)|prohibited content`, `contains? (?:\w+ ){0,2}sensitive`, `敏感|不安全|违规`)

	// Want of room.
	lacking = sentence(`\boverload\w*`, `\b(?:no|lacks?|insufficient|out of|not enough|at|over|limited|exceeds?) (?:\w+ ){0,2}capacity|capacity (?:\w+ ){0,3}(?:exceeded|exhausted|unavailable|reached)`,
		`\b(?:server|engine|model|service)s? (?:is |are )?(?:currently |too |temporarily )?(?:too )?busy|\bbusy\b[^.]*try`, `model (?:\S+ )?(?:is )?(?:currently |still )?loading|(?:^|['"])loading model`, `high (?:levels? of )?(?:demand|load|traffic)|heavy (?:load|traffic)`,
		`no available channel|\bworkers? (?:\w+ ){0,3}limit reached|service (?:is )?(?:currently |temporarily )unavailable|no (?:healthy|available) (?:upstream|workers?|instances?|replicas?|accounts?)|no (?:workers?|instances?|replicas?|slots?) available`, `(?:maximum pending|queue is full|queue full|too many pending)`, `服务器?繁忙|负载(?:过高|已?饱和|已满)|访问量过大|过载`)

	cold = sentence(`\bdegraded\b[^.]*cannot be invoked`, `\bmodel (?:\S+ )?is cold\b`, `not ready (?:for|to serve) inference`, `(?:warming|spinning|starting) up`, `currently loading`)

	// The key, the account or the model is refused.
	refusedKey = sentence(`\bno (?:api )?permission\b`, `billing (?:is|account is|has been) (?:disabled|not enabled)`, `\bno valid (?:\w+ ){0,3}(?:credentials|api[ _-]?key)`, `\bapi[ _-]?(?:key|token)\b[^.]*\b(?:not valid|invalid|expired|incorrect|revoked|leaked|missing|disabled|suspended|blocked|not found|unauthorized)\b`,
		`\b(?:invalid|incorrect|expired|missing|malformed|revoked|no|unknown)(?: or \w+)? (?:provided )?(?:api[ _-]?key|api token|access token|bearer token|auth\w* (?:token|header)|credentials)\b`,
		`security token included in the request is`, `\bcredential is only authorized\b`,
		`\b(?:account|organization|project|workspace|team)\b[^.]*\b(?:disabled|deactivated|suspended|banned|blocked|flagged|not active|inactive|archived|locked|must be verified)\b`,
		`\blocation is not supported|not (?:available|supported) in your (?:country|region)`, `无效的?(?:令牌|密钥| ?api)`)
	refusedModel = sentence(`\b(?:model|deployment|engine)s?\b[^.]*(?:[^\s]+ )?[^.]*(?:\bnot found|(?:not|n't) exist|\bis not a valid|\bnot available|\bno longer (?:available|supported)|\b(?:been|is) (?:decommissioned|deprecated|retired|removed))`,
		`\b(?:unknown|invalid|no such|unrecognized|nonexistent) (?:model|deployment|engine)\b`, `\bnot a valid model\b`, `\bmodel (?:id|identifier|name)?\s*(?:is )?(?:invalid|unknown)`, `\bmodel[^.]* is not supported\.?$`,
		`access to (?:the |this )?model`, `模型不存在`, `no endpoints found`, `on-demand throughput`)

	// Something that the request names is not there, and it is not the model.
	missingWord = sentence(`^` + resource + `(?:id)?(?:notfound|expired|doesnotexist)$`)
	missing     = sentence("(?:(?:^|[\\s\"'`(])"+resource+`\b|\bcachedcontents/)[^\n]*(?:not found|(?:not|n't) exist|not be found|expired|been deleted)`,
		`\bno `+resource+` (?:was |were )?found`, `\bno such `+resource+`\b`, `\bnot found: `+resource+`\b`, `\bcannot find `+resource+`\b`, `permission to access the `+resource+`\b`)
	ofTheModel = sentence(`\b(?:models?|deployments?|engines?)\b`)
	required   = sentence(`\b(?:required|must provide|missing)\b`)
)

const resource = `(?:files?|previous[_ ]?responses?|responses?|conversations?|threads?|assistants?|runs?|vector[_ ]?stores?|batch(?:es)?|items?|messages?|` +
	`containers?|cached[_ ]?contents?|documents?|images?|videos?|uploads?|jobs?|prompts?|sessions?|guardrails?|skills?|interactions?)`

// The words that mean the same from whoever says them.
const (
	exhaustedWords = `insufficient*quota preconsume*quota* organizationusagelimitexceeded billinghardlimitreached billingnotactive billingerror insufficient*balance*
		insufficient*credit* creditbalance* insufficientfunds* notenoughcredits outofcredits nocredits credit*exhausted creditlimitexceeded exceededbudget budgetexceeded*
		exceededcurrentquotaerror usagelimitreached usagelimitexceeded monthlylimitexceeded weeklylimitexceeded paymentrequired *resourcepackexhausted
		*tpdexceeded *rpdexceeded quota*daily* notenoughbalance balancenotenough *spendlimitexceeded *spendlimitreached *overdue*
		*arrear* *quotaexhausted`
	ownWords = `contextlength* contextwindow* contextsize* exceedcontext* prompttoolong prompttoolarge inputtoolong inputtoolarge requesttoolarge requesttoolong
		stringabovemaxlength *contentfilter* *contentpolicy* *contentmoderation* *contentblocked* *policyviolation *sensitivecontent* datainspectionfailed
		moderation* prohibitedcontent promptblocked invalidprompt safety maxtokensexceeded outofcontexterror tokenstoolong characterstoolong moderationblocked unsaferequest *riskdetection* cyberpolicy*`
	lackingWords = `modelnotreadyexception overloadederror serverisoverloaded engineoverloaded* serveroverloaded* modeloverloaded* modelcapacityexhausted capacityexceeded servicetiercapacityexceeded queueexceeded modelservingerror
		nocapacity insufficientcapacity resourceunavailable systembusy modelloading resourcebusy serverbusy`
	refusedWords = `usagenotincluded *notactivated *notpurchased servicenotopen invalidaccountstatus *servicestop invalidparametervaluemodel providernotinitialize keymodelaccessdenied
		authfailure* invalidendpoint* invalidapikey* incorrectapikey* expiredapikey missingapikey disabledapikey revokedapikey wrongapikey invalidkey invalidtoken invalidaccesskey* invalidaccesstoken invalidauth*
		invalidcredential* expiredtoken* expiredkey missingkey missingtoken apikey* apitoken* accesskey* accesstoken* credentialsmissing *authenticationerror *authenticationfailed
		*authenticationfailure *authentication authenticationtoken* unauthorized* unauthenticated forbidden permissiondenied* permissionerror iampermission*
		insufficientpermission* accessdenied* notauthorized* unrecognizedclientexception invalidsignatureexception incompletesignature* optinrequired
		servicedisabled consumerinvalid consumersuspended missingscope missingscopes accountdeactivated accountdisabled accountsuspended accountblocked accountnotfound
		organizationdeactivated organizationdisabled organizationsuspended organizationblocked organizationnotfound projectdeactivated projectdisabled projectsuspended
		projectblocked projectnotfound userdeactivated userdisabled usersuspended userblocked usernotfound keydeactivated keydisabled keysuspended keyblocked keynotfound keyexpired
		invalidorganization mismatchedorganization invalidproject mismatchedproject unsupportedcountryregionterritory ipnotauthorized
		invalidmodel* unknownmodel* unsupportedmodel* unavailablemodel* invaliddeployment* unknowndeployment* invalidengine* unknownengine*
		modelnotfound* modelnotavailable* modelnotsupported* modelnotactive* modelnotopen* modelnotexist* modelnotallowed* modeldoesnotexist modelunavailable modelunsupported
		modeldecommissioned modeldeprecated modelretired modeltermsrequired modelpermission* modelaccess* deploymentnot* deploymentdoesnotexist deploymentunavailable
		enginenot* invalidendpointormodel*`
)
