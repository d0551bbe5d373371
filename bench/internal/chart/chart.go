// Package chart draws bars as an SVG that is readable on light and on dark pages.
package chart

import (
	"bytes"
	"encoding/xml"
	"io"
	"text/template"
)

// Chart is a column of panels whose bars have one scale.
type Chart struct {
	Title  string
	Note   string // below the title
	Panels []Panel
	// Most is the largest value that a bar can show; a longer one is cut off there.
	Most float64
}

// Panel is a few bars with a heading.
type Panel struct {
	Title string
	Bars  []Bar
}

// Bar is one value.
type Bar struct {
	Name   string
	Value  float64
	Label  string // at its end
	Own    bool   // it is what the chart is about
	Hollow bool   // its value is not comparable with the others'
}

// The measures, in pixels.
const (
	width    = 860
	margin   = 20
	names    = 210 // from the left edge to where bars begin
	bars     = 360 // the longest bar
	row      = 22
	heading  = 44 // above the bars of a panel
	head     = 68 // above the panels
	textDown = 12 // from the top of a bar to the baseline of its text
)

// placed is what the template draws.
type placed struct {
	Chart
	Width, Height int
	Left          int     // of bars
	One           float64 // where 1 is
	Placed        []placedPanel
}

type placedPanel struct {
	Panel
	Y, Top, Bottom int // of the heading's baseline, and of the bars
	Placed         []placedBar
}

type placedBar struct {
	Bar
	Y, Text int
	Length  float64
	End     float64 // where the label begins
	Cut     bool
}

// Write writes the chart.
func (c Chart) Write(w io.Writer) error {
	p := placed{Chart: c, Width: width, Left: names, One: names + bars/c.Most}
	y := head
	for _, panel := range c.Panels {
		pp := placedPanel{Panel: panel, Y: y + 26, Top: y + heading - 6}
		y += heading
		for _, b := range panel.Bars {
			length := bars * min(max(b.Value, 0), c.Most) / c.Most
			pp.Placed = append(pp.Placed, placedBar{
				Bar: b, Y: y, Text: y + textDown, Length: length, End: names + length + 8, Cut: b.Value > c.Most,
			})
			y += row
		}
		pp.Bottom = y
		p.Placed = append(p.Placed, pp)
	}
	p.Height = y + margin
	return drawing.Execute(w, p)
}

// escape makes a text one of XML's.
func escape(s string) (string, error) {
	var b bytes.Buffer
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

var drawing = template.Must(template.New("chart").Funcs(template.FuncMap{"escape": escape}).Parse(
	`<svg xmlns="http://www.w3.org/2000/svg" width="{{.Width}}" height="{{.Height}}" viewBox="0 0 {{.Width}} {{.Height}}" role="img">
<title>{{escape .Title}}</title>
<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.page { fill: #ffffff } .title { font-size: 17px; font-weight: 600 } .panel { font-size: 14px; font-weight: 600 }
.quiet { fill: #59636e } .own { fill: #0969da } .other { fill: #9aa4af } .hollow { fill: none; stroke: #9aa4af; stroke-dasharray: 3 2 }
.one { stroke: #1f2328; stroke-dasharray: 2 3 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .page { fill: #0d1117 } .quiet { fill: #9198a1 } .own { fill: #4493f8 } .other { fill: #656c76 } .hollow { stroke: #656c76 }
.one { stroke: #f0f6fc }
}
</style>
<rect class="page" width="{{.Width}}" height="{{.Height}}" rx="6"/>
<text class="title" x="20" y="32">{{escape .Title}}</text>
<text class="quiet" x="20" y="54">{{escape .Note}}</text>
{{- $c := .}}{{range .Placed}}
<text class="panel" x="20" y="{{.Y}}">{{escape .Title}}</text>
{{- range .Placed}}
<text x="{{$c.Left}}" dx="-10" y="{{.Text}}" text-anchor="end">{{escape .Name}}</text>
<rect class="{{if .Hollow}}hollow{{else if .Own}}own{{else}}other{{end}}" x="{{$c.Left}}" y="{{.Y}}" width="{{printf "%.1f" .Length}}" height="14"/>
<text class="quiet" x="{{printf "%.1f" .End}}" y="{{.Text}}">{{if .Cut}}→ {{end}}{{escape .Label}}</text>
{{- end}}
<line class="one" x1="{{printf "%.1f" $c.One}}" y1="{{.Top}}" x2="{{printf "%.1f" $c.One}}" y2="{{.Bottom}}"/>
{{- end}}
</svg>
`))
