package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The tables of crates/keepd-gotext say what Go answers. With BLESS=1 they are rewritten.
func TestGoTextTables(t *testing.T) {
	t.Parallel()
	tables, err := filepath.Glob("../../crates/keepd-gotext/tests/golden/*.txt")
	if err != nil || len(tables) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, path := range tables {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		for i, line := range lines {
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			input, expected, _ := strings.Cut(line, "\t")
			actual := goText(t, input)
			if os.Getenv("BLESS") == "" && actual != expected {
				t.Errorf("%s:%d: %s\n  written: %s\n  Go:      %s", path, i+1, input, expected, actual)
			}
			lines[i] = input + "\t" + actual
		}
		if os.Getenv("BLESS") != "" {
			if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// goText runs one line of a table: a function, its base if it has one, and a quoted text.
func goText(t *testing.T, input string) string {
	t.Helper()
	start := strings.IndexByte(input, '"')
	text, err := strconv.Unquote(input[max(start, 0):])
	if err != nil {
		t.Fatalf("%s: %v", input, err)
	}
	words := strings.Fields(input[:start])
	base := 0
	if len(words) > 1 {
		if base, err = strconv.Atoi(words[1]); err != nil {
			t.Fatalf("%s: %v", input, err)
		}
	}
	var value any
	switch words[0] {
	case "bool":
		value, err = strconv.ParseBool(text)
	case "int":
		value, err = strconv.ParseInt(text, base, 64)
	case "uint":
		value, err = strconv.ParseUint(text, base, 64)
	case "uint32":
		value, err = strconv.ParseUint(text, base, 32)
	case "duration":
		var duration time.Duration
		duration, err = time.ParseDuration(text)
		value = fmt.Sprintf("%d %v", int64(duration), duration)
	case "quote":
		return strconv.Quote(text)
	case "unquote":
		var prefix, unquoted string
		if prefix, err = strconv.QuotedPrefix(text); err == nil {
			_, err = fmt.Sscanf(prefix, "%q", &unquoted) // as etcdctl reads the lines of txn
			value = fmt.Sprintf("%q then %q", unquoted, text[len(prefix):])
		}
	default:
		t.Fatalf("unknown function %s", words[0])
	}
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(value)
}
