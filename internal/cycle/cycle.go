// Package cycle finds circles in what points to each other.
package cycle

import "slices"

// Find gives a circle of names that begins and ends with the same one, nil when there is none.
// next gives where a name points to; it is asked once for each.
func Find(names []string, next func(name string) []string) []string {
	const visiting, done = 1, 2
	state := make(map[string]int, len(names))
	var path []string
	var visit func(name string) []string
	visit = func(name string) []string {
		path = append(path, name)
		defer func() { path = path[:len(path)-1] }()
		switch state[name] {
		case visiting:
			return slices.Clone(path[slices.Index(path, name):])
		case done:
			return nil
		}
		state[name] = visiting
		for _, to := range next(name) {
			if circle := visit(to); circle != nil {
				return circle
			}
		}
		state[name] = done
		return nil
	}
	for _, name := range names {
		if circle := visit(name); circle != nil {
			return circle
		}
	}
	return nil
}
