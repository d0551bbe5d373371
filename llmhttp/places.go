package llmhttp

import "strings"

// role is what a value of a document says.
type role uint8

const (
	roleFigure     role = iota // a number of tokens: n is its index in counts
	roleError                  // it is an error: a text is its message, an object has more
	roleWord                   // a code, status or type of an error: n is its rank
	roleMessage                // what the error says to people
	roleParam                  // what of the request it blames
	roleFlag                   // what moderation found in the request
	roleWait                   // how long to wait: n is the unit
	roleHeader                 // a header that a gateway hands on
	roleQuoted                 // a document within a string: the error that a gateway was given
	roleQuotaID                // a quota of Google's that a call broke: its name,
	roleQuotaWhat              // its metric,
	roleQuotaValue             // and its amount
	roleAlarm                  // that the document is an error, unless it is 0, true or empty
	roleMilestone              // where a stream is: n is which member says it
	roleEncoded                // a document in base64
)

// waitMillis is the unit of a wait in milliseconds. Any other is in seconds, a duration or a date.
const waitMillis uint8 = 1

// fact is what a place in a document means.
type fact struct {
	role role
	n    uint8
	top  bool // beside an error, not within it: counts only when the document is an error
}

// node is a place in documents, and what its values mean.
type node struct {
	facts    []fact
	members  map[string]*node
	elements *node // of a list
	others   *node // members of any name
	room     int   // for the bytes of its value
	named    bool  // the name of the member counts, too
}

func (n *node) member(name []byte) *node {
	if m := n.members[string(name)]; m != nil {
		return m
	}
	return n.others
}

// at is the node at a path such as "error.details[].reason". A star stands for any name.
func (n *node) at(path string) *node {
	for name := range strings.SplitSeq(path, ".") {
		name, lists := strings.CutSuffix(name, "[]")
		if n.members == nil {
			n.members = map[string]*node{}
		}
		child := n.members[name]
		switch {
		case name == "*" && n.others == nil:
			n.others = &node{room: maxText, named: true}
			fallthrough
		case name == "*":
			child = n.others
		case child == nil:
			child = &node{room: maxText}
			n.members[name] = child
		}
		n = child
		if lists {
			if n.elements == nil {
				n.elements = &node{room: maxText}
			}
			n = n.elements
		}
	}
	return n
}

// add says what the values at a path mean.
func (n *node) add(path string, f fact) {
	place := n.at(path)
	place.facts = append(place.facts, f)
	if f.role == roleQuoted || f.role == roleEncoded {
		place.room = maxKept
	}
}

// longestName is how long a member's name may be that counts.
const longestName = 40

// root is the tree of all places that count, in lower case. Anything else, such as a model's
// output or the arguments of a tool, may hold the same names without meaning the same.
var root = newTree()

// errorPlaces are where an error stands, as an object or as its message.
var errorPlaces = strings.Fields(`error response.error delta.error choices[].error message.error response.body.error
	error.error detail.error result.error output.error data.error errors[] response_metadata.error
	responsemetadata.error fault exception`)

// errorMembers are what an error's object says. Some of it may stand in the document itself.
var errorMembers = []struct {
	paths string
	is    fact
	top   bool // also in the document itself
}{
	{"details.error_code", fact{role: roleWord}, false},
	{"code error_code errorcode detail.errorcode", fact{role: roleWord, n: 1}, true},
	{"status http_code http_status http_status_code status_code statuscode", fact{role: roleWord, n: 2}, true},
	{"type reason errortype error_type", fact{role: roleWord, n: 3}, true},
	{"innererror.code innererror.innererror.code metadata.error_type", fact{role: roleWord, n: 4}, false},
	{"details[].reason errors[].reason details[].errorcode", fact{role: roleWord, n: 5}, false},
	{"message msg error_message error_msg errormessage errormsg err_msg status_msg error_description faultstring title detail description", fact{role: roleMessage}, true},
	{"details[].msg details[].localizedmessage.message metadata.provider_error", fact{role: roleMessage}, false},
	{"param field", fact{role: roleParam}, true},
	{"metadata.flagged_input metadata.reasons[]", fact{role: roleFlag}, false},
	{"retry_after retryafter retry_after_seconds retryaftersec ratelimitnext retryafterseconds retry_in wait_seconds cooldown_seconds resets_in_seconds reset_in_seconds reset_seconds details[].retrydelay retrydelay metadata.retry_after metadata.retry_after_seconds details.retry_after details.retry_after_seconds", fact{role: roleWait}, true},
	{"retry_after_ms retryafterms metadata.retry_after_ms", fact{role: roleWait, n: waitMillis}, true},
	{"resets_at reset_at resetat resetsat reset_time resettime reset metadata.resets_at metadata.reset_at details.resets_at details.reset_at quota_reset_time quotaresettimestamp details[].metadata.quotaresettimestamp", fact{role: roleWait}, true},
	{"details[].metadata.quotaresetdelay", fact{role: roleWait}, false},
	{"estimated_time", fact{role: roleWait}, true},
	{"metadata.headers.* headers.*", fact{role: roleHeader}, false},
	{"metadata.raw upstream_error inner_error value.error_message", fact{role: roleQuoted}, false},
	{"details[].violations[].quotaid details[].metadata.quota_limit", fact{role: roleQuotaID}, false},
	{"details[].violations[].quotametric details[].metadata.quota_metric", fact{role: roleQuotaWhat}, false},
	{"details[].violations[].quotavalue details[].metadata.quota_limit_value", fact{role: roleQuotaValue}, false},
}

// exceptions are members that name an error and have what it says: Bedrock's, of a stream that a
// gateway hands on as events.
var exceptions = strings.Fields(`throttlingexception modelstreamerrorexception internalserverexception serviceunavailableexception
	validationexception modeltimeoutexception modelnotreadyexception accessdeniedexception`)

// alarms say of the document itself that it is an error, unless they are 0, true, ok or empty.
// A number is its word as well.
var alarms = strings.Fields("base_resp.status_code error_code success header.code")

func newTree() *node {
	n := &node{}
	for _, m := range errorMembers {
		for path := range strings.FieldsSeq(m.paths) {
			for _, place := range errorPlaces {
				n.add(place+"."+path, m.is)
			}
			if m.top {
				top := m.is
				top.top = true
				n.add(path, top)
				n.add("detail."+path, top)
			}
		}
	}
	for _, place := range errorPlaces {
		n.add(place, fact{role: roleError})
	}
	for path := range strings.FieldsSeq("__type detail[].type response.code") {
		n.add(path, fact{role: roleWord, n: 3, top: true})
	}
	for i, name := range exceptions {
		n.add(name, fact{role: roleError, n: uint8(i + 1)})
		n.add(name+".message", fact{role: roleMessage})
	}
	for path := range strings.FieldsSeq("detail[].msg base_resp.status_msg header.message") {
		n.add(path, fact{role: roleMessage, top: true})
	}
	for i, path := range alarms {
		n.add(path, fact{role: roleAlarm, n: uint8(i)})
	}
	for i, m := range milestoneMembers {
		for path := range strings.FieldsSeq(m.paths) {
			n.add(path, fact{role: roleMilestone, n: uint8(i)})
		}
	}
	n.add("bytes", fact{role: roleEncoded})
	addFigures(n)
	return n
}
