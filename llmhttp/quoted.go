package llmhttp

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// unquote takes the error out of a message in which a gateway hands on what it was given: as it
// came, or as Python prints bytes and objects. It may name its status beside it.
func (e *apiError) unquote() {
	at := quotedDocument.FindStringIndex(e.message)
	if e.upstream != nil || at == nil && !named.MatchString(e.message) {
		return
	}
	own, quoted := e.message, ""
	if at != nil {
		own, quoted = e.message[:at[0]], e.message[at[0]:]
		if strings.HasSuffix(own, "b'") {
			quoted = printedBytes(quoted)
		}
	}
	s := scanner{answer: answer{failure: true}} // it is an error, even if only its words say so
	s.write([]byte(quoted))
	up := s.err
	if up != nil && (up.found || up.message != "") {
		e.message = own
	} else {
		up = &apiError{}
		rank := topRank + 1
		if strings.Contains(quoted, `'error': {`) {
			rank = 1
		}
		for _, m := range printedWord.FindAllStringSubmatch(quoted, -1) {
			up.say(rank, m[1])
		}
		if m := printedMessage.FindStringSubmatch(quoted); m != nil {
			up.message, e.message = cmp.Or(m[1:]...), own
		}
	}
	if m := named.FindStringSubmatch(own); m != nil && up.status == 0 && !fetched.MatchString(own) {
		up.status, _ = strconv.Atoi(m[1])
	}
	e.upstream = up
}

var (
	quotedDocument = regexp.MustCompile(`[\[{](?:\s|\\n)*[{"']`)
	printedWord    = regexp.MustCompile(`'(?:code|type|status|error_code)': '?([\w.-]+)`)
	printedMessage = regexp.MustCompile(`'(?:message|msg|detail)': (?:'([^']*)'|"([^"]*)")`)
	named          = regexp.MustCompile(`(?i)^\W*(?:\w+\W+){0,3}(?:status )?(?:code|status|http)[: =(]{1,2}([45]\d\d)\b`)
	fetched        = regexp.MustCompile(`(?i)download|fetch|image|file|url`) // what the request refers to has that status
)

// printedBytes undoes what Python does to bytes that it prints.
func printedBytes(s string) string {
	if end := strings.LastIndexByte(s, '\''); end > 0 {
		s = s[:end]
	}
	escaped := strings.NewReplacer(`\\`, `\\`, `\'`, "'", `"`, `\"`, "\n", `\n`).Replace(s)
	if plain, err := strconv.Unquote(`"` + escaped + `"`); err == nil {
		return plain
	}
	return s
}
