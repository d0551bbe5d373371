package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
)

// element is what a chart is made of.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Elements []element  `xml:",any"`
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (e element) number(t *testing.T, name string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(e.attr(name), 64)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return x
}

func draw(t *testing.T, c Chart) element {
	t.Helper()
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(b.Bytes())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, b.String())
		}
	}
	var svg element
	if err := xml.Unmarshal(b.Bytes(), &svg); err != nil {
		t.Fatal(err)
	}
	if svg.XMLName.Local != "svg" || svg.XMLName.Space != "http://www.w3.org/2000/svg" {
		t.Errorf("the document is %v", svg.XMLName)
	}
	return svg
}

func (e element) all(name string) (found []element) {
	for _, c := range e.Elements {
		if c.XMLName.Local == name {
			found = append(found, c)
		}
	}
	return found
}

func TestBarsShowTheirValues(t *testing.T) {
	svg := draw(t, Chart{Title: "T", Note: "N", Most: 3, Panels: []Panel{
		{Title: "P", Bars: []Bar{
			{Name: "a", Value: 1, Label: "one", Own: true},
			{Name: "b", Value: 1.5, Label: "more"},
			{Name: "c", Value: 9, Label: "far"},
			{Name: "d", Value: 0.5, Label: "part", Hollow: true},
		}},
		{Title: "Q", Bars: []Bar{{Name: "e", Value: 0, Label: "none"}}},
	}})
	rects := svg.all("rect")[1:] // the first is the page
	want := []struct {
		class string
		width float64
	}{{"own", 120}, {"other", 180}, {"other", 360}, {"hollow", 180.0 / 3}, {"other", 0}}
	if len(rects) != len(want) {
		t.Fatalf("%d bars, want %d", len(rects), len(want))
	}
	lines := svg.all("line")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want one in each panel", len(lines))
	}
	for i, r := range rects {
		if r.attr("class") != want[i].class || r.number(t, "width") != want[i].width {
			t.Errorf("bar %d is %s and %v long, want %+v", i, r.attr("class"), r.attr("width"), want[i])
		}
	}
	if one := rects[0].number(t, "x") + rects[0].number(t, "width"); lines[0].number(t, "x1") != one {
		t.Errorf("the line is at %s, and a bar of 1 ends at %v", lines[0].attr("x1"), one)
	}
	var texts []string
	bottom := 0.0
	for _, e := range svg.all("text") {
		texts = append(texts, e.Text)
		if y := e.number(t, "y"); y <= bottom-30 || y > svg.number(t, "height") {
			t.Errorf("%q stands at %v, above what comes before or below the page", e.Text, y)
		} else {
			bottom = y
		}
	}
	if got, want := strings.Join(texts, "|"), "T|N|P|a|one|b|more|c|→ far|d|part|Q|e|none"; got != want {
		t.Errorf("it reads %s, want %s", got, want)
	}
}

func TestTextsAreEscaped(t *testing.T) {
	const nasty = `<script>&"'` + "\x00" + `</svg>`
	svg := draw(t, Chart{Title: nasty, Note: nasty, Most: 1, Panels: []Panel{{Title: nasty, Bars: []Bar{{Name: nasty, Label: nasty}}}}})
	want := strings.ReplaceAll(nasty, "\x00", "\uFFFD")
	for _, e := range append(svg.all("text"), svg.all("title")...) {
		if e.Text != want {
			t.Errorf("%q reads %q", nasty, e.Text)
		}
	}
	if len(svg.all("script")) > 0 {
		t.Error("a text became an element")
	}
}

// Nothing in it comes from elsewhere, and dark pages are thought of.
func TestChartStandsAlone(t *testing.T) {
	var b bytes.Buffer
	if err := (Chart{Title: "T", Most: 1}).Write(&b); err != nil {
		t.Fatal(err)
	}
	s := strings.Replace(b.String(), "http://www.w3.org/2000/svg", "", 1)
	for _, foreign := range []string{"http", "url(", "@import", "@font-face", "<script", "href"} {
		if strings.Contains(s, foreign) {
			t.Errorf("it has %s in it", foreign)
		}
	}
	if !strings.Contains(s, "prefers-color-scheme: dark") {
		t.Error("it has no colors for dark pages")
	}
}
