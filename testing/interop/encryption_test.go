package interop

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keepd/keepd/testing/interop/harness"
)

// Documents with a hole for what is asked about.
const (
	withSecret = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - %s:
          keys:
            - name: key1
              secret: %s
      - identity: {}
`
	withName = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - secretbox:
          keys:
            - name: %s
              secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
      - identity: {}
`
	withResources = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: %s
    providers:
      - secretbox: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
      - identity: {}
`
	withProviders = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers: %s
`
	secret32 = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
)

// encryptionFiles are configurations as people write them, odd ones above all.
func encryptionFiles() map[string]string {
	files := map[string]string{}
	plain := fmt.Sprintf(withSecret, "secretbox", secret32)
	secret := func(name, text string) { files["secret: "+name] = fmt.Sprintf(withSecret, "secretbox", text) }
	length := func(provider string, size int) {
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", size)))
		files[fmt.Sprintf("length: %s %d", provider, size)] = fmt.Sprintf(withSecret, provider, text)
	}
	deep := func(text string) string { return strings.ReplaceAll("\n"+text, "\n", "\n                ") }
	twenty := secret32[:20] + "\n" + secret32[20:40] + "\n" + secret32[40:]

	for name, text := range map[string]string{
		"plain": secret32, "quoted": `"` + secret32 + `"`, "single quotes": "'" + secret32 + "'",
		"newline at the end": `"` + secret32 + `\n"`, "carriage return and newline": `"` + secret32 + `\r\n"`,
		"newline in front": `"\n` + secret32 + `"`, "newline inside": `"MDEyMzQ1Njc4OWFi\nY2RlZjAxMjM0NTY3ODlhYmNkZWY="`,
		"newline before the padding": `"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY\n="`,
		"space at the end":           `"` + secret32 + ` "`, "space inside": `"MDEyMzQ1Njc4 OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="`,
		"tab at the end": `"` + secret32 + `\t"`, "form feed": `"` + secret32 + `\f"`, "nothing but newlines": `"\n\n"`,
		"literal": "|" + deep(secret32), "literal, kept": "|+" + deep(secret32) + "\n\n", "literal, stripped": "|-" + deep(secret32),
		"literal, broken": "|" + deep(twenty), "folded": ">" + deep(secret32), "folded, broken": ">" + deep(twenty),
		"folded, stripped, broken": ">-" + deep(twenty), "plain over lines": deep(twenty),
		"double quotes over lines":          `"` + strings.ReplaceAll(twenty, "\n", "\n                ") + `"`,
		"double quotes over lines, escaped": `"` + strings.ReplaceAll(twenty, "\n", "\\\n                ") + `"`,
		"no padding":                        "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
		"too much padding":                  secret32 + "=", "more padding": secret32 + "====", "padding inside": "MDEy=MzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY",
		"trailing bits":     "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWZ=",
		"all trailing bits": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZW//",
		"URL alphabet":      "__-_MzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"standard alphabet": "//+/MzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
		"hexadecimal":       "3031323334353637383961626364656630313233343536373839616263646566",
		"bytes as they are": "0123456789abcdef0123456789abcdef",
		"a number":          "12345678901234567890123456789012345678901234",
		"a quoted number":   `"12345678901234567890123456789012345678901234"`,
		"absent":            "", "empty": `""`, "null": "null", "tilde": "~", "yes": "yes", "true": "true", "a list": "[" + secret32 + "]",
		"a mapping": "{a: b}", "placeholder": "<BASE 64 ENCODED SECRET>", "tagged text": "!!str " + secret32,
		"tagged binary": "!!binary " + secret32, "tagged, unknown": "!secret " + secret32, "comment behind": secret32 + " # the key",
		"comment without space": secret32 + "#the key", "anchor": "&k " + secret32, "alias without anchor": "*k", "non-ASCII": secret32 + "\u00e9",
		"no-break space": secret32 + "\u00a0", "escaped letters": `"\x4dDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="`,
	} {
		secret(name, text)
	}
	for _, provider := range []string{"aescbc", "aesgcm", "secretbox"} {
		for _, size := range []int{0, 1, 8, 15, 16, 17, 24, 31, 32, 33, 64} {
			length(provider, size)
		}
		for _, size := range []int{12, 16, 18, 24, 32} {
			once := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", size)))
			for name, wrapped := range map[string]string{"twice": once, "twice with newline": once + "\n"} {
				twice := base64.StdEncoding.EncodeToString([]byte(wrapped))
				files[fmt.Sprintf("wrapped %s: %s %d", name, provider, size)] = fmt.Sprintf(withSecret, provider, twice)
			}
		}
	}
	for name, text := range map[string]string{
		"number": "1", "float": "1.5", "yes": "yes", "no": "no", "on": "on", "true": "true", "null": "null", "absent": "", "empty": `""`,
		"colon": `"a:b"`, "slash": "a/b", "space": `"a b"`, "quoted number": `"1"`, "date": "2024-01-01", "long": strings.Repeat("k", 300),
		"non-ASCII": "schl\u00fcssel", "newline": `"a\n"`, "leading zero": "007", "hexadecimal": "0x10", "octal": "0o7", "infinity": ".inf",
		"exponent": "1e3", "underscored": "1_000", "sexagesimal": "1:20", "y": "y", "Y": "Y", "list": "[a]", "tilde": "~", "dash": `"-"`,
	} {
		files["name: "+name] = fmt.Sprintf(withName, text)
	}
	for name, text := range map[string]string{
		"one": "[secrets]", "several": "[secrets, configmaps]", "of a group": "[deployments.apps]", "all": "['*.*']", "core": "['*.']",
		"all of a group": "['*.apps']", "star": "['*']", "capital": "[Secrets]", "capital of a group": "[deployments.Apps]", "twice": "[secrets, secrets]",
		"masked": "[secrets, '*.']", "masked by all": "[secrets, '*.*']", "two wildcards": "['*.*', '*.']", "none": "[]", "null": "null",
		"empty": "['']", "text": "secrets", "number": "[1]", "events group": "[events.events.k8s.io]", "all events": "['*.events.k8s.io']", "extensions": "[ingresses.extensions]",
		"all extensions": "['*.extensions']", "same in groups": "['secrets.*']", "no API": "[serviceipallocations]", "no API in core": "['serviceipallocations.']",
		"two dots": "[a.b.c]", "ends with a dot": "['secrets.']", "begins with a dot": "['.apps']", "unknown": "[nothing.example.com]",
		"star in a name": "['sec*']", "star in a group": "['*.ap*']", "null entry": "[null]",
		"prefix": "['prefix:']", "prefix of keys": "['prefix:/registry/secrets/']", "block list": "\n    - secrets\n    - configmaps",
	} {
		files["resources: "+name] = fmt.Sprintf(withResources, text)
	}
	key := "{keys: [{name: a, secret: " + secret32 + "}]}"
	for name, text := range map[string]string{
		"identity": "[{identity: {}}]", "identity null": "[{identity: null}]", "identity bare": "[{identity: }]", "identity text": "[{identity: ''}]",
		"identity with a field": "[{identity: {a: b}}]", "none": "[]", "null": "null", "null entry": "[null]", "empty entry": "[{}]", "no list": "{identity: {}}",
		"two in one": "[{identity: {}, secretbox: " + key + "}]", "two keys": "[{aescbc: {keys: [{name: a, secret: " + secret32 + "}, {name: b, secret: " + secret32 + "}]}}]",
		"two keys of one name": "[{aescbc: {keys: [{name: a, secret: " + secret32 + "}, {name: a, secret: " + secret32 + "}]}}]",
		"a provider twice":     "[{aescbc: " + key + "}, {aescbc: " + key + "}]", "identity twice": "[{identity: {}}, {identity: {}}]",
		"no keys": "[{aescbc: {keys: []}}]", "keys null": "[{aescbc: {keys: null}}]", "nothing in it": "[{aescbc: {}}]", "null provider": "[{aescbc: null}]",
		"unknown provider": "[{rot13: " + key + "}]", "wrong case": "[{AESCBC: " + key + "}]", "field of wrong case": "[{aescbc: {Keys: []}}]",
		"unknown field": "[{aescbc: {keys: [{name: a, secret: " + secret32 + ", ttl: 1}]}}]", "identity first": "[{identity: {}}, {aescbc: " + key + "}]",
		"repeated field": "[{aescbc: {keys: [{name: a, name: b, secret: " + secret32 + "}]}}]",
		"kms":            "[{kms: {apiVersion: v2, name: k, endpoint: 'unix:///tmp/k.sock'}}]",
		"kms of none":    "[{kms: {}}]",
	} {
		files["providers: "+name] = fmt.Sprintf(withProviders, text)
	}
	for name, text := range map[string]string{
		"plain": plain, "no newline at the end": strings.TrimSpace(plain), "CRLF": strings.ReplaceAll(plain, "\n", "\r\n"), "BOM": "\ufeff" + plain,
		"document marks": "---\n" + plain + "...\n", "marks and comment": "# keys\n---\n" + plain, "two documents": plain + "---\n" + plain,
		"an empty document behind": plain + "---\n", "a comment behind a mark": plain + "---\n# end\n", "an empty document in front": "---\n---\n" + plain,
		"yaml directive": "%YAML 1.1\n---\n" + plain, "yaml directive 1.2": "%YAML 1.2\n---\n" + plain, "empty": "", "only a comment": "# nothing\n", "only a mark": "---\n",
		"tabs": strings.ReplaceAll(plain, "  ", "\t"), "a tab behind": strings.Replace(plain, "[secrets]", "[secrets]\t", 1),
		"old kind":       strings.NewReplacer("apiserver.config.k8s.io/v1", "v1", "EncryptionConfiguration", "EncryptionConfig").Replace(plain),
		"mixed kind":     strings.Replace(plain, "apiserver.config.k8s.io/v1", "v1", 1),
		"mixed kind too": strings.Replace(plain, "EncryptionConfiguration", "EncryptionConfig", 1),
		"beta":           strings.Replace(plain, "k8s.io/v1", "k8s.io/v1beta1", 1), "no kind": strings.Replace(plain, "kind: EncryptionConfiguration\n", "", 1),
		"no version": strings.Replace(plain, "apiVersion: apiserver.config.k8s.io/v1\n", "", 1), "no resources": plain[:strings.Index(plain, "resources")],
		"metadata": plain + "metadata: {name: x}\n", "null at the top": plain + "metadata: null\n", "repeated kind": plain + "kind: EncryptionConfiguration\n",
		"quoted fields": strings.Replace(plain, "kind:", `"kind":`, 1), "kind in lower case": strings.Replace(plain, "kind: E", "kind: e", 1),
		"anchors": "x: &r [secrets]\n" + strings.Replace(plain, "[secrets]", "*r", 1),
		"anchor in place": strings.Replace(fmt.Sprintf(withProviders, "[{aescbc: &k "+key+"}, {aesgcm: *k}, {identity: {}}]"),
			"[secrets]", "&r [secrets]", 1),
		"merge":          strings.Replace(plain, "name: key1\n", "<<: {name: key1}\n", 1),
		"merge override": strings.Replace(plain, "name: key1\n", "<<: {name: key0}\n              name: key1\n", 1),
		"JSON": `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],` +
			`"providers":[{"secretbox":{"keys":[{"name":"key1","secret":"` + secret32 + `"}]}},{"identity":{}}]}]}`,
		"JSON with a newline": `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"EncryptionConfiguration","resources":[{"resources":["secrets"],` +
			`"providers":[{"secretbox":{"keys":[{"name":"key1","secret":"` + secret32 + `\n"}]}},{"identity":{}}]}]}`,
		"a list":          "- " + strings.ReplaceAll(plain, "\n", "\n  "),
		"not a document":  "hello",
		"NUL":             plain + "\x00",
		"Latin-1":         strings.Replace(plain, "key1", "schl\xfcssel", 1),
		"an item is null": plain + "  - null\n", "an item more": plain + "  - resources: [configmaps]\n    providers: [{identity: {}}]\n",
		"an item masked": strings.Replace(plain, "[secrets]", "['*.*']", 1) + "  - resources: [configmaps]\n    providers: [{identity: {}}]\n",
		"less indented":  strings.Replace(plain, "  - resources", "- resources", 1),
	} {
		files["document: "+name] = text
	}
	return files
}

// differs says where keepd's answer is not the loader's, and why that is meant.
var differs = map[string]string{
	"document: two documents":      "the loader ignores the second, which somebody counts on",
	"document: merge override":     "an own field beside a merged one is YAML's rule",
	"document: yaml directive 1.2": "keepd reads YAML 1.2",
	"providers: kms":               "kms providers are not built yet",
	"resources: empty":             "it encrypts nothing",
	"resources: null entry":        "it encrypts nothing",
	"resources: no API in core":    "it encrypts nothing",
}

func TestEncryptionConfigurationsAreReadAsByKubeAPIServer(t *testing.T) {
	t.Parallel()
	bin := harness.NeedKeepd(t)
	dir := t.TempDir()
	var names, paths []string
	for name, text := range encryptionFiles() {
		path := filepath.Join(dir, fmt.Sprintf("%d.yaml", len(paths)))
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		names, paths = append(names, name), append(paths, path)
	}
	verdicts := strings.Split(strings.TrimSpace(harness.MustRun(t, nil, harness.LoaderTool(t), paths...)), "\n")
	equal(t, "verdicts", len(verdicts), len(names))
	accepted := 0
	for i, name := range names {
		out := harness.Run(t, nil, "", bin, "encryption", "verify", paths[i])
		loader, ours := verdicts[i] == "accepted", out.Code == 0
		if ours {
			accepted++
		}
		if why := differs[name]; (loader == ours) == (why != "") {
			t.Errorf("%s: the loader says %s, keepd ends with %d: %s%s", name, verdicts[i], out.Code, out.Stderr, why)
		}
	}
	t.Logf("%d files, of which keepd accepts %d", len(names), accepted)
}
