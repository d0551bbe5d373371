package report

import (
	"fmt"
	"math"
	"time"

	"github.com/go-analyze/charts"
)

// chartPoints is how many points a line of the chart has.
const chartPoints = 400

// maxLines is how many models have a line of their own; the rest share one.
const maxLines = 6

// Chart draws what was started in any period against the limits, requests above and tokens
// below: as "svg" or "png".
func Chart(points []time.Time, list []Series, period time.Duration, format string) ([]byte, error) {
	if len(points) == 0 {
		return nil, fmt.Errorf("no request has a start: there is nothing to draw")
	}
	const w, h = 1000, 760
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: format, Width: w, Height: h})
	p.FilledRect(0, 0, w, h, charts.ColorWhite, charts.ColorWhite, 0)
	per := "minute"
	if period != time.Minute {
		per = period.String()
	}
	for i, panel := range []struct {
		title          string
		values, limits func(*Series) []float64
	}{
		{"Requests started in any " + per, func(s *Series) []float64 { return s.Requests }, func(s *Series) []float64 { return s.RequestLimit }},
		{"Tokens charged in any " + per, func(s *Series) []float64 { return s.Tokens }, func(s *Series) []float64 { return s.TokenLimit }},
	} {
		box := charts.NewBox(0, i*h/2, w, (i+1)*h/2)
		if err := p.Child(charts.PainterBoxOption(box)).LineChart(lines(panel.title, points, list, panel.values, panel.limits)); err != nil {
			return nil, err
		}
	}
	return p.Bytes()
}

// lines are one panel: the models, all of them if there are several, and what the limits
// of all allow together.
func lines(title string, points []time.Time, list []Series, values, limits func(*Series) []float64) charts.LineChartOption {
	n := len(points)
	var names []string
	var data [][]float64
	all, allowed, rest := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range list {
		v, l := values(&list[i]), limits(&list[i])
		for j := range n {
			all[j] += v[j]
			allowed[j] += l[j]
			if i >= maxLines {
				rest[j] += v[j]
			}
		}
		if i < maxLines {
			names, data = append(names, list[i].Model), append(data, v)
		}
	}
	if len(list) > maxLines {
		names, data = append(names, fmt.Sprintf("%d other models", len(list)-maxLines)), append(data, rest)
	}
	if len(list) > 1 {
		names, data = append(names, "all models"), append(data, all)
	}
	known := false
	for j, v := range allowed {
		if math.IsNaN(v) {
			allowed[j] = charts.GetNullValue()
		} else {
			known = true
		}
	}
	if known {
		names, data = append(names, "limit"), append(data, allowed)
	}
	opt := charts.NewLineChartOptionWithData(data)
	opt.Title = charts.TitleOption{Text: title}
	opt.Legend = charts.LegendOption{SeriesNames: names, Offset: charts.OffsetRight}
	opt.Padding = charts.NewBoxEqual(20)
	opt.LineStrokeWidth = 1.5
	opt.Symbol = charts.Symbol{Shape: charts.SymbolNone}
	opt.YAxis[0].Min = charts.Ptr(0.0)
	opt.ValueFormatter = func(f float64) string { return thousands(int64(f)) }
	opt.XAxis.Labels = labels(points)
	opt.XAxis.LabelCount = 8
	opt.XAxis.BoundaryGap = charts.Ptr(false)
	return opt
}

// labels are the time since the first point, as precise as it makes sense.
func labels(points []time.Time) []string {
	list := make([]string, len(points))
	span := points[len(points)-1].Sub(points[0])
	for i, at := range points {
		d := at.Sub(points[0])
		switch {
		case span < 2*time.Minute:
			list[i] = fmt.Sprintf("%.1f s", d.Seconds())
		case span < 3*time.Hour:
			list[i] = fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
		default:
			list[i] = fmt.Sprintf("%d:%02d h", int(d.Hours()), int(d.Minutes())%60)
		}
	}
	return list
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Points is how many points Chart wants.
func Points() int { return chartPoints }
