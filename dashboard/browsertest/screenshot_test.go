package browsertest

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var (
	screenshots = flag.String("screenshots", "", "the `folder` to write pictures to")
	of          = flag.String("of", "", "the `URL` of a running dashboard to take them of")
)

// scheme sets what the browser says that its user prefers.
func scheme(name string) chromedp.Action[chromedp.Void] {
	return call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
}

func TestScreenshots(t *testing.T) {
	if *screenshots == "" || *of == "" {
		t.Skip("writes pictures only with -screenshots and -of: see the package comment")
	}
	for _, shot := range []struct {
		file          string
		width, height int
		scheme        string
	}{
		{"dashboard-light.png", 1280, 1400, "light"},
		{"dashboard-dark.png", 1280, 1400, "dark"},
		{"narrow-light.png", 400, 2000, "light"},
		{"narrow-dark.png", 400, 2000, "dark"},
	} {
		b := newTab(t, shot.width, shot.height)
		b.run(scheme(shot.scheme))
		b.open(*of)
		b.snapshots(2)
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*screenshots, shot.file), picture, 0o666); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d KB", shot.file, len(picture)/1024)
		b.clean(*of)
	}
}
