package llmhttp

import (
	"net/http"
	"regexp"
	"strings"
)

// A failure is the request's own fault, or the fault of the place where it was sent:
// then another endpoint may serve it. The status says which in most cases. The rest
// are told apart by the words and sentences below. Words are compared in lower case and
// without separators, because every provider writes them in its own way.

var (
	// The request is too long, or what it asks for is not allowed.
	ownWord = regexp.MustCompile(`^(?:context(?:length|window|size)\w*|exceedcontext\w*|(?:prompt|input|request)too(?:long|large)|stringabovemaxlength|` +
		`\w*contentfilter\w*|\w*content(?:policy|moderation|blocked)\w*|\w*policyviolation|\w*sensitivecontent\w*|datainspectionfailed|` +
		`moderation\w*|prohibitedcontent|promptblocked|invalidprompt|safety)$`)
	tooLong = regexp.MustCompile(`(?i)exceed\w*\b[^.]{0,60}\bcontext (?:length|window|size)|\bcontext (?:length|window|size)\b[^.]{0,40}\bexceeded|` +
		`maximum context length|\b(?:prompt|input) is too long`)
	notAllowed = regexp.MustCompile(`(?i)\b(?:input|prompt|content|request|message|image|text|output|response)\b[^.]{0,60}\b(?:flagged|moderat\w+|inappropriate|prohibited)|` +
		`\b(?:flagged|blocked|rejected|filtered)\b[^.]{0,60}\b(?:moderation|safety|content|guardrail)|` +
		`content (?:policy|management policy|filter\w*|moderation)|moderation (?:policy|failed|blocked)|safety (?:system|filter\w*|policy|settings|guidelines)|prohibited content`)

	// The key, the account or the model is refused.
	placeWord = regexp.MustCompile(`^(?:(?:invalid|incorrect|expired|missing|disabled|revoked|wrong)(?:api|access|auth)?(?:key|token|credentials?)(?:error|exception)?|` +
		`(?:api|access)(?:key|token)\w+|credentialsmissing|\w*authentication(?:error|failed|failure|token)?|unauthorized\w*|unauthenticated|forbidden|` +
		`(?:iam)?permission(?:denied\w*|error)|insufficientpermissions?|accessdenied\w*|notauthorized\w*|unrecognizedclientexception|expiredtokenexception|invalidsignatureexception|incompletesignature\w*|` +
		`optinrequired|servicedisabled|consumer(?:invalid|suspended)|missingscopes?|(?:account|organization|project|user|key)(?:deactivated|disabled|suspended|blocked|notfound|expired)|` +
		`(?:invalid|mismatched)(?:organization|project)|unsupportedcountryregionterritory|ipnotauthorized|` +
		`(?:invalid|unknown|unsupported|unavailable)(?:model|deployment|engine)(?:id|name|identifier)?|` +
		`(?:model|deployment|engine)(?:not(?:found|available|supported|active|open|exists?|allowed)\w*|doesnotexist|unavailable|unsupported|decommissioned|deprecated|retired|termsrequired|permission\w*|access\w*)|` +
		`invalidendpointormodel\w*)$`)
	badKey = regexp.MustCompile(`(?i)\bapi[ _-]?(?:key|token)\b[^.]{0,60}\b(?:not valid|invalid|expired|incorrect|revoked|leaked|missing|disabled|suspended|blocked|not found|unauthorized)\b|` +
		`\b(?:invalid|incorrect|expired|missing|malformed|revoked|no|unknown)(?: or \w+)? (?:provided )?(?:api[ _-]?key|api token|access token|bearer token|auth\w* (?:token|header)|credentials)\b|` +
		`security token included in the request is|` +
		`\b(?:account|organization|project|workspace|team)\b[^.]{0,60}\b(?:disabled|deactivated|suspended|banned|blocked|flagged|not active|inactive|archived)\b|` +
		`\blocation is not supported|not (?:available|supported) in your (?:country|region)`)
	badModel = regexp.MustCompile(`(?i)\b(?:model|deployment|engine)s?\b[^.]{0,20}(?:[^\s]+ )?[^.]{0,40}(?:\bnot found|(?:not|n't) exist|\bis not a valid|\bnot available|\bno longer (?:available|supported)|\b(?:been|is) (?:decommissioned|deprecated|retired|removed))|` +
		`\b(?:unknown|invalid|no such|unrecognized|nonexistent) (?:model|deployment|engine)\b|\bnot a valid model\b|\bmodel (?:id|identifier|name)?\s*(?:is )?(?:invalid|unknown)|\bmodel[^.]{0,60} is not supported\.?$|` +
		`access to (?:the |this )?model|no endpoints found|on-demand throughput`)

	// Something that the request names is not there, and it is not the model.
	resourceWord = regexp.MustCompile(`^` + resource + `(?:id)?(?:notfound|expired|doesnotexist)$`)
	resourceGone = regexp.MustCompile("(?i)(?:(?:^|[\\s\"'`(])" + resource + `\b|\bcachedContents/)[^\n]{0,120}(?:not found|(?:not|n't) exist|not be found|expired|been deleted)|` +
		`\bno ` + resource + ` (?:was |were )?found|\bno such ` + resource + `\b|\bnot found: ` + resource + `\b|\bcannot find ` + resource + `\b|permission to access the ` + resource + `\b`)
	ofTheModel = regexp.MustCompile(`(?i)\b(?:models?|deployments?|engines?)\b`)
	required   = regexp.MustCompile(`(?i)\b(?:required|must provide|missing)\b`)
)

const resource = `(?:files?|previous[_ ]?responses?|responses?|conversations?|threads?|assistants?|runs?|vector[_ ]?stores?|batch(?:es)?|items?|messages?|` +
	`containers?|cached[_ ]?contents?|documents?|images?|videos?|uploads?|jobs?|prompts?|sessions?|guardrails?|skills?|interactions?)`

// longestSentence is how much of a message is looked at: it may be a page.
const longestSentence = 4 << 10

// sentence is the message, as far as it is meant to be read by a client.
func (e *apiError) sentence() string {
	if strings.HasPrefix(strings.TrimSpace(e.message), "<") {
		return "" // a page for people
	}
	return e.message[:min(len(e.message), longestSentence)]
}

// names reports whether one of e's words is of that kind.
func (e *apiError) names(kind *regexp.Regexp) bool {
	for _, w := range e.words {
		if kind.MatchString(plainWord(w)) {
			return true
		}
	}
	return false
}

// plainWord is a word in lower case, of letters and digits alone.
func plainWord(word string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, word)
}

// own reports whether the request itself is at fault, in whatever status it comes: it
// is too long, or what it asks for is not allowed. Other faults of a request have the
// statuses that say so.
func (e *apiError) own(status int) bool {
	if e.flagged || e.names(ownWord) {
		return true
	}
	if status == http.StatusTooManyRequests {
		return false // its sentences speak of tokens and limits, too
	}
	m := e.sentence()
	return tooLong.MatchString(m) || status < 500 && notAllowed.MatchString(m) && !badKey.MatchString(m)
}

// elsewhere reports whether the key, the account or the model is refused.
func (e *apiError) elsewhere(status int) bool {
	m := e.sentence()
	switch status {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden, http.StatusNotFound:
		return !e.missesResource(status, m)
	}
	if e.names(placeWord) || badKey.MatchString(m) || badModel.MatchString(m) {
		return true
	}
	return e.param == "model" && !required.MatchString(m)
}

// missesResource reports whether a failure speaks of something that the request names,
// such as a file.
func (e *apiError) missesResource(status int, m string) bool {
	switch {
	case e.names(resourceWord):
		return true
	case e.names(placeWord) && status == http.StatusNotFound, ofTheModel.MatchString(m):
		return false
	case status == http.StatusNotFound && e.param != "" && e.param != "model" && e.param != "None":
		return true
	}
	return resourceGone.MatchString(m)
}
