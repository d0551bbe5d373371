package llmhttp

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// requestScanner reads a request's JSON as its bytes come along, and keeps of it what is in a
// ModelCall. Broken input gives broken findings, never an error: the provider will say so.
type requestScanner struct {
	model   string
	stream  bool
	bound   int64         // the largest that was set
	answers int64         // how many are asked for
	bytes   int64         // of text
	ids     int64         // tokens that are given as numbers
	roles   int64         // messages
	data    int64         // images and the like
	texts   *bytes.Buffer // the text itself, for a tokenizer; nil when nobody asks

	state  requestState
	open   []byte // the brackets that are open
	under  []name // what each of them is the value of
	isKey  bool   // the next string is a member's name
	key    name   // whose value comes next
	word   []byte // of a name, a number or a short text
	text   textSoFar
	hexes  int // digits of an escaped character that are still to come
	broken bool
}

type requestState uint8

const (
	between requestState = iota
	inText
	inEscape
	inHexes
	inWord // a number or a literal
)

// textSoFar is a string that comes along.
type textSoFar struct {
	bytes int64
	data  bool // all of it may be base64 so far
	raw   int  // where it begins in texts
}

// name is a member's name that counts.
type name uint8

const (
	otherName name = iota
	modelName
	streamName
	boundName   // of the output
	answersName // how many
	boxName     // an object that holds bounds
	inputName   // its numbers are tokens
	urlName
	roleName // of who speaks in a message
)

// requestNames are the names without underscores, in lower case.
var requestNames = map[string]name{
	"model": modelName, "modelid": modelName, "stream": streamName,
	"maxtokens": boundName, "maxcompletiontokens": boundName, "maxoutputtokens": boundName, // OpenAI, Gemini
	"maxtokenstosample": boundName, "maxgenlen": boundName, "maxtokencount": boundName, // Bedrock's models
	"numpredict": boundName, "npredict": boundName, "maxnewtokens": boundName, // Ollama, llama.cpp, TGI
	"n": answersName, "bestof": answersName, "candidatecount": answersName,
	"generationconfig": boxName, "options": boxName, "inferenceconfig": boxName, "parameters": boxName, "textgenerationconfig": boxName,
	"input": inputName, "prompt": inputName, "role": roleName,
	"url": urlName, "imageurl": urlName, "fileuri": urlName, "uri": urlName,
}

const (
	longestWord   = 300     // that is kept: a model's name may be an ARN
	deepest       = 1000    // brackets
	dataTokens    = 1000    // of an image
	messageTokens = 4       // around each message, and as many once: OpenAI's cookbook on counting tokens
	shortestData  = 1 << 10 // bytes of base64 that are no word
	mostAnswers   = 128
	mostMaxOutput = 1 << 32
)

// Write takes the next bytes. It never fails.
func (s *requestScanner) Write(p []byte) (int, error) {
	for i := 0; i < len(p) && !s.broken; {
		switch c := p[i]; s.state {
		case between:
			i++
			s.between(c)
			if s.state == inWord {
				i--
			}
		case inText:
			i += s.inText(p[i:])
		case inEscape:
			i++
			s.state = inText
			s.keep(p[i-1 : i])
			if s.text.bytes++; c == 'u' {
				s.hexes, s.state = 4, inHexes
				s.text.bytes += 2 // as UTF-8, mostly
			}
			if s.text.data = s.text.data && c == '/'; c == '/' {
				s.keepWord(p[i-1 : i])
			}
		case inHexes:
			i++
			s.keep(p[i-1 : i])
			if s.hexes--; s.hexes == 0 {
				s.state = inText
			}
		case inWord:
			end := bytes.IndexAny(p[i:], ",]} \t\r\n")
			if end < 0 {
				end = len(p) - i
			}
			s.keepWord(p[i : i+end])
			if i += end; i < len(p) {
				s.state = between
				s.endWord()
			}
		}
	}
	return len(p), nil
}

// between takes a byte outside of texts and words.
func (s *requestScanner) between(c byte) {
	switch c {
	case '"':
		s.state, s.word = inText, s.word[:0]
		s.text = textSoFar{data: true}
		if s.texts != nil {
			s.text.raw = s.texts.Len()
			s.texts.WriteByte('"')
		}
	case '{', '[':
		if s.broken = len(s.open) == deepest; s.broken {
			return
		}
		s.open, s.under = append(s.open, c), append(s.under, s.key)
		if s.isKey = c == '{'; s.isKey {
			s.key = otherName
		}
	case '}', ']':
		if len(s.open) > 0 {
			s.open, s.under = s.open[:len(s.open)-1], s.under[:len(s.under)-1]
		}
		s.isKey, s.key = false, s.inherited()
	case ',':
		s.isKey = len(s.open) > 0 && s.open[len(s.open)-1] == '{'
	case ':':
		s.isKey = false
	case ' ', '\t', '\r', '\n':
	default:
		s.state, s.word = inWord, s.word[:0]
	}
}

// inText takes bytes of a text, and says how many.
func (s *requestScanner) inText(p []byte) int {
	end := bytes.IndexByte(p, '"')
	part := p
	if end >= 0 {
		part = p[:end]
	}
	if escape := bytes.IndexByte(part, '\\'); escape >= 0 {
		s.take(part[:escape])
		s.keep(part[escape : escape+1])
		s.state = inEscape
		return escape + 1
	}
	s.take(part)
	if end < 0 {
		return len(p)
	}
	s.state = between
	s.endText()
	return end + 1
}

// take adds a part of a text.
func (s *requestScanner) take(part []byte) {
	if begin := shortestData - s.text.bytes; s.text.data && begin > 0 {
		for _, c := range part[:min(begin, int64(len(part)))] {
			s.text.data = s.text.data && base64Byte[c]
		}
	}
	s.text.bytes += int64(len(part))
	s.keep(part)
	s.keepWord(part)
}

var base64Byte = func() (is [256]bool) {
	for _, c := range "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_" {
		is[c] = true
	}
	return is
}()

// keep keeps the bytes of a text for a tokenizer.
func (s *requestScanner) keep(p []byte) {
	if s.texts != nil {
		s.texts.Write(p)
	}
}

func (s *requestScanner) keepWord(p []byte) {
	if room := longestWord - len(s.word); room > 0 {
		s.word = append(s.word, p[:min(room, len(p))]...)
	}
}

// endText ends a text or a member's name.
func (s *requestScanner) endText() {
	t := &s.text
	isData := bytes.HasPrefix(s.word, []byte("data:")) || t.data && t.bytes >= shortestData || s.key == urlName && bytes.HasPrefix(s.word, []byte("http"))
	counts := !s.isKey && !isData && len(s.open) > 0
	switch {
	case s.isKey:
		s.key = nameOf(s.word)
	case s.key == modelName && len(s.open) == 1:
		s.model, counts = string(s.word), false
	case isData:
		s.data++
	case s.key == roleName && counts:
		s.roles++
	case counts:
		s.bytes += t.bytes
	}
	if s.texts != nil {
		s.unquote(counts)
	}
	if s.isKey {
		s.isKey = false
	} else {
		s.key = s.inherited()
	}
}

// inherited is the name that the next element of a list goes by.
func (s *requestScanner) inherited() name {
	if n := len(s.open); n > 0 && s.open[n-1] == '[' {
		return s.under[n-1]
	}
	return otherName
}

// unquote brings the text that has ended to what it means, or takes it away.
func (s *requestScanner) unquote(counts bool) {
	raw := append(s.texts.Bytes()[s.text.raw:], '"')
	var plain string
	if !counts || json.Unmarshal(raw, &plain) != nil {
		s.texts.Truncate(s.text.raw)
		return
	}
	s.texts.Truncate(s.text.raw)
	s.texts.WriteString(plain)
	s.texts.WriteByte('\n')
}

// nameOf is the name that counts of a member.
func nameOf(word []byte) name {
	if len(word) > len("textgenerationconfig")+2 {
		return otherName
	}
	var short [len("textgenerationconfig") + 2]byte
	n := 0
	for _, c := range word {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != '_' {
			short[n] = c
			n++
		}
	}
	return requestNames[string(short[:n])]
}

// endWord ends a number or a literal.
func (s *requestScanner) endWord() {
	depth := len(s.open)
	list := depth > 0 && s.open[depth-1] == '['
	settles := depth == 1 || depth == 2 && s.under[1] == boxName
	switch {
	case s.key == streamName && depth == 1:
		s.stream = string(s.word) == "true"
	case list && depth >= 2 && s.under[1] == inputName:
		s.ids++
	case list || !settles:
	case s.key == boundName:
		s.bound = max(s.bound, s.number(mostMaxOutput))
	case s.key == answersName:
		s.answers = max(s.answers, s.number(mostAnswers))
	}
	s.key = s.inherited()
}

// number is the word as a whole number up to most; 100.0 is one too.
func (s *requestScanner) number(most int64) int64 {
	f, err := strconv.ParseFloat(strings.TrimSpace(string(s.word)), 64)
	if err != nil || !(f > 0) {
		return 0
	}
	return int64(min(f, float64(most)))
}

// tokens is the estimate of the input: of all texts together what llmqueue.EstimateTokens says
// of one.
func (s *requestScanner) tokens() int64 { return (s.bytes+3)/4 + s.other() }

// other is what is no text.
func (s *requestScanner) other() int64 {
	n := s.ids + s.data*dataTokens
	if s.roles > 0 {
		n += (s.roles + 1) * messageTokens
	}
	return n
}
