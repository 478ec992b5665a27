package interop

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keepd/keepd/testing/interop/harness"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// chainCase is what a client shows, and to what it must lead.
type chainCase struct {
	name  string
	chain []*issued
	root  *issued
	// accepted is the answer of crypto/x509, written here so that a change of Go's shows.
	accepted bool
	// stricter says why keepd refuses what Go accepts; it never accepts what Go refuses.
	stricter string
}

type edit = func(*x509.Certificate)

// mill makes certificates.
type mill struct {
	t      testing.TB
	serial int64
}

func (m *mill) make(name string, issuer *issued, edits ...edit) *issued {
	m.t.Helper()
	return m.makeWith(name, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(m.t), issuer, edits...)
}

// makeWith signs with issuer's key, or with its own.
func (m *mill) makeWith(name string, key crypto.Signer, issuer *issued, edits ...edit) *issued {
	m.t.Helper()
	m.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(m.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	for _, edit := range edits {
		edit(template)
	}
	parent := issuer
	if parent == nil {
		parent = &issued{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
	return &issued{must(x509.ParseCertificate(der))(m.t), key}
}

// ca makes a root that may issue.
func (m *mill) root(name string, edits ...edit) *issued {
	m.t.Helper()
	return m.make(name, nil, append([]edit{isCA, usage(x509.KeyUsageCertSign)}, edits...)...)
}

func (m *mill) sub(name string, issuer *issued, edits ...edit) *issued {
	m.t.Helper()
	return m.make(name, issuer, append([]edit{isCA, usage(x509.KeyUsageCertSign)}, edits...)...)
}

func (m *mill) leaf(issuer *issued, edits ...edit) *issued {
	m.t.Helper()
	return m.make("leaf", issuer, append([]edit{ekus(x509.ExtKeyUsageClientAuth)}, edits...)...)
}

func isCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.MaxPathLen = true, true, -1
}

func notCA(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, true }

func noConstraints(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false }

func usage(bits x509.KeyUsage) edit { return func(c *x509.Certificate) { c.KeyUsage = bits } }

func ekus(list ...x509.ExtKeyUsage) edit {
	return func(c *x509.Certificate) { c.ExtKeyUsage = list }
}

func pathLen(n int) edit {
	return func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = n, n == 0 }
}

func expired(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }

func notYet(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }

func dns(names ...string) edit { return func(c *x509.Certificate) { c.DNSNames = names } }

func extension(critical bool, value []byte, oid ...int) edit {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: value})
	}
}

// unknown is an extension that nobody knows.
func unknown(critical bool) edit {
	return extension(critical, []byte{5, 0}, 1, 3, 6, 1, 4, 1, 99999, 1)
}

// altered changes the signed part of a certificate and signs it again with issuer's key.
func (m *mill) altered(c, issuer *issued, from, to []byte) *issued {
	m.t.Helper()
	var outer struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.cert.Raw, &outer); err != nil {
		m.t.Fatal(err)
	}
	if len(from) != len(to) || bytes.Count(outer.TBS.FullBytes, from) != 1 {
		m.t.Fatalf("%x is not there once", from)
	}
	outer.TBS.FullBytes = bytes.Replace(outer.TBS.FullBytes, from, to, 1)
	digest := crypto.SHA256.New()
	digest.Write(outer.TBS.FullBytes)
	signature := must(issuer.key.Sign(rand.Reader, digest.Sum(nil), crypto.SHA256))(m.t)
	outer.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return &issued{&x509.Certificate{Raw: must(asn1.Marshal(outer))(m.t)}, c.key}
}

// openssl signs what Go does not: version 1, SHA-1, MD5.
func (m *mill) openssl(pki *harness.PKI, issuer *issued, file string, args ...string) *issued {
	m.t.Helper()
	pki.Write(m.t, "issuer.crt", pemOf("CERTIFICATE", issuer.cert.Raw))
	pki.Write(m.t, "issuer.key", pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(issuer.key))(m.t)))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(m.t)
	pki.Write(m.t, file+".key", pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))(m.t)))
	pki.OpenSSL(m.t, "req", "-new", "-key", file+".key", "-subj", "/CN="+file, "-out", file+".csr")
	pki.OpenSSL(m.t, append([]string{"x509", "-req", "-in", file + ".csr", "-CA", "issuer.crt", "-CAkey", "issuer.key",
		"-CAcreateserial", "-days", "30", "-out", file + ".crt"}, args...)...)
	block, _ := pem.Decode(must(os.ReadFile(pki.Path(file + ".crt")))(m.t))
	return &issued{must(x509.ParseCertificate(block.Bytes))(m.t), key}
}

func pemOf(label string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der}))
}

func show(certs ...*issued) []*issued { return certs }

// chainCases are the shapes of a chain that decide whether it is accepted.
func chainCases(t testing.TB, pki *harness.PKI) []chainCase {
	m := &mill{t: t}
	var cases []chainCase
	add := func(name string, accepted bool, root *issued, chain ...*issued) {
		cases = append(cases, chainCase{name: name, chain: chain, root: root, accepted: accepted})
	}
	stricter := func(why string) { cases[len(cases)-1].stricter = why }
	server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth

	// A leaf under its root.
	for name, edits := range map[string][]edit{
		"plain": nil, "key usage": {usage(x509.KeyUsageDigitalSignature)},
		"key usage that cannot sign": {usage(x509.KeyUsageKeyEncipherment)}, "no extended usage": {ekus()},
		"both usages": {ekus(client, server)}, "any usage": {ekus(x509.ExtKeyUsageAny)},
		"unknown extension": {unknown(false)}, "names": {dns("a.example.com", "*.b.example.com", "under_score", "a b")},
		"CA as leaf": {isCA}, "CA as leaf that may sign": {isCA, usage(x509.KeyUsageCertSign)},
		"path length on a leaf": {notCA, extension(true, []byte{0x30, 3, 2, 1, 0}, 2, 5, 29, 19), noConstraints},
	} {
		root := m.root("leaf: " + name)
		add("leaf: "+name, true, root, m.leaf(root, edits...))
	}
	for name, edits := range map[string][]edit{
		"usage of servers": {ekus(server)}, "another usage": {ekus(x509.ExtKeyUsageCodeSigning)},
		"expired": {expired}, "not yet valid": {notYet}, "unknown critical extension": {unknown(true)},
		"CA as leaf, unknown critical extension": {isCA, unknown(true)},
		"CA as leaf, usage of servers":           {isCA, ekus(server)},
	} {
		root := m.root("leaf: " + name)
		add("leaf: "+name, false, root, m.leaf(root, edits...))
	}
	root := m.root("leaf: usage nobody knows")
	add("leaf: usage nobody knows", false, root, m.leaf(root, ekus(), func(c *x509.Certificate) {
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 99999, 2}}
	}))
	root = m.root("leaf: critical policies")
	policies := []byte{0x30, 6, 0x30, 4, 6, 2, 0x2a, 3}
	add("leaf: critical policies", true, root, m.leaf(root, extension(true, policies, 2, 5, 29, 32)))
	stricter("the library does not know certificate policies, and they are critical")
	root = m.root("leaf: policies")
	add("leaf: policies", true, root, m.leaf(root, extension(false, policies, 2, 5, 29, 32)))
	root = m.root("leaf: negative serial")
	base := m.leaf(root, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0x1122334455) })
	add("leaf: negative serial", false, root,
		m.altered(base, root, []byte{2, 5, 0x11, 0x22, 0x33, 0x44, 0x55}, []byte{2, 5, 0x91, 0x22, 0x33, 0x44, 0x55}))
	root = m.root("leaf: one extension twice")
	add("leaf: one extension twice", false, root, m.leafUnparsed(root))
	root = m.root("leaf: signature of another key")
	other := m.root("leaf: signature of another key")
	add("leaf: signature of another key", false, root, m.leaf(other))
	root = m.root("leaf: not signed")
	whole := m.leaf(root)
	raw := bytes.Clone(whole.cert.Raw)
	raw[len(raw)-1] ^= 1
	add("leaf: not signed", false, root, &issued{&x509.Certificate{Raw: raw}, whole.key})
	root = m.root("leaf: issuer in another encoding")
	printable, utf8 := []byte("\x13\x20leaf: issuer in another encoding"), []byte("\x0c\x20leaf: issuer in another encoding")
	if bytes.Contains(root.cert.RawSubject, utf8) {
		printable, utf8 = utf8, printable
	}
	add("leaf: issuer in another encoding", false, root, m.altered(m.leaf(root), root, printable, utf8))

	// Roots that may not issue, or not this.
	for name, of := range map[string]struct {
		accepted bool
		edits    []edit
	}{
		"no key usage": {true, []edit{usage(0)}}, "path length 0": {true, []edit{pathLen(0)}},
		"usage of clients": {true, []edit{ekus(client)}}, "any usage": {true, []edit{ekus(x509.ExtKeyUsageAny)}},
		"both usages": {true, []edit{ekus(server, client)}}, "usage of servers": {false, []edit{ekus(server)}},
		"may not sign certificates": {false, []edit{usage(x509.KeyUsageDigitalSignature)}},
		"expired":                   {false, []edit{expired}}, "not yet valid": {false, []edit{notYet}},
		"no CA": {false, []edit{notCA}}, "no constraints": {false, []edit{noConstraints}},
		"unknown critical extension": {false, []edit{unknown(true)}}, "unknown extension": {true, []edit{unknown(false)}},
	} {
		for kind, edits := range map[string][]edit{"": nil, ", CA as leaf": {isCA}} {
			root := m.root("root: "+name+kind, of.edits...)
			add("root: "+name+kind, of.accepted, root, m.leaf(root, edits...))
		}
	}

	// Intermediates.
	for name, of := range map[string]struct {
		accepted bool
		edits    []edit
	}{
		"plain": {true, nil}, "no key usage": {true, []edit{usage(0)}},
		"may not sign certificates": {false, []edit{usage(x509.KeyUsageDigitalSignature)}},
		"signs lists only":          {false, []edit{usage(x509.KeyUsageCRLSign)}},
		"no CA":                     {false, []edit{notCA}}, "no constraints": {false, []edit{noConstraints}},
		"no CA, no key usage": {false, []edit{notCA, usage(0)}},
		"expired":             {false, []edit{expired}}, "not yet valid": {false, []edit{notYet}},
		"usage of servers": {false, []edit{ekus(server)}}, "usage of clients": {true, []edit{ekus(client)}},
		"both usages": {true, []edit{ekus(server, client)}}, "any usage": {true, []edit{ekus(x509.ExtKeyUsageAny)}},
		"unknown critical extension": {false, []edit{unknown(true)}}, "unknown extension": {true, []edit{unknown(false)}},
		"path length 0":           {true, []edit{pathLen(0)}},
		"asks for policies":       {false, []edit{extension(true, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)}},
		"asks for policies, lax":  {false, []edit{extension(false, []byte{0x30, 3, 0x80, 1, 0}, 2, 5, 29, 36)}},
		"asks for policies later": {true, []edit{extension(false, []byte{0x30, 3, 0x80, 1, 5}, 2, 5, 29, 36)}},
	} {
		for kind, edits := range map[string][]edit{"": nil, ", CA as leaf": {isCA}} {
			root := m.root("sub: " + name + kind)
			sub := m.sub("sub of "+name+kind, root, of.edits...)
			add("intermediate: "+name+kind, of.accepted, root, m.leaf(sub, edits...), sub)
			if name == "asks for policies later" {
				stricter("policies are not followed: whoever asks for them gets no path")
			}
		}
	}
	for kind, edits := range map[string][]edit{"": nil, ", CA as leaf": {isCA}} {
		root := m.root("path: missing" + kind)
		add("path: missing intermediate"+kind, false, root, m.leaf(m.sub("missing", root), edits...))

		root = m.root("path: root of length 0"+kind, pathLen(0))
		sub := m.sub("sub", root)
		add("path: root of length 0, one intermediate"+kind, false, root, m.leaf(sub, edits...), sub)

		for length, accepted := range map[int]bool{1: false, 2: true} {
			root = m.root(fmt.Sprint("path: root of length ", length, kind), pathLen(length))
			first := m.sub("first", root)
			second := m.sub("second", first)
			add(fmt.Sprint("path: root of length ", length, ", two intermediates", kind), accepted, root,
				m.leaf(second, edits...), second, first)
		}
		root = m.root("path: intermediate of length 0" + kind)
		first := m.sub("first of 0", root, pathLen(0))
		second := m.sub("second of 0", first)
		add("path: intermediate of length 0, one below"+kind, false, root, m.leaf(second, edits...), second, first)

		root = m.root("path: any order" + kind)
		first = m.sub("first any", root)
		second = m.sub("second any", first)
		add("path: any order, and a stranger"+kind, true, root, m.leaf(second, edits...), first, m.root("stranger"), second)

		root = m.root("path: root sent too" + kind)
		sub = m.sub("sub sent", root)
		add("path: root sent too"+kind, true, root, m.leaf(sub, edits...), sub, root)

		// Of two of one name and key one may issue.
		root = m.root("path: cross" + kind)
		good := m.sub("cross", root)
		bad := m.makeWith("cross", good.key, root, isCA, usage(x509.KeyUsageDigitalSignature))
		leaf := m.leaf(good, edits...)
		add("path: one of two intermediates may issue"+kind, true, root, leaf, bad, good)
		add("path: none of two intermediates may issue"+kind, false, root, leaf, bad, bad)

		root = m.root("path: leaf as issuer" + kind)
		holder := m.leaf(root)
		add("path: leaf as issuer"+kind, false, root, m.leaf(holder, edits...), holder)

		root = m.root("path: other key" + kind)
		shown := m.sub("other key", root)
		signing := m.sub("other key", root)
		add("path: intermediate of another key"+kind, false, root, m.leaf(signing, edits...), shown)

		root = m.root("path: usages" + kind)
		first = m.sub("first usages", root, ekus(client))
		second = m.sub("second usages", first, ekus(server))
		add("path: usages that exclude each other"+kind, false, root, m.leaf(second, edits...), second, first)
		second = m.sub("second usages", first, ekus(server, client))
		add("path: usages that widen"+kind, true, root, m.leaf(second, edits...), second, first)

		issuer := m.root("path: long" + kind)
		root = issuer
		var path []*issued
		for range 8 {
			issuer = m.sub("link"+fmt.Sprint(len(path)), issuer)
			path = append([]*issued{issuer}, path...)
		}
		add("path: eight intermediates"+kind, true, root, append(show(m.leaf(issuer, edits...)), path...)...)
		stricter("paths of more than six intermediates are not followed")
	}

	// Names: what a constrained CA lets through.
	permits := func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.com"}, true
	}
	excludes := func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"evil.example.com"} }
	_, lan, _ := net.ParseCIDR("10.0.0.0/8")
	permitsIP := func(c *x509.Certificate) { c.PermittedIPRanges = []*net.IPNet{lan} }
	permitsURI := func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.com"} }
	permitsMail := func(c *x509.Certificate) { c.PermittedEmailAddresses = []string{"example.com"} }
	ip := func(text string) edit {
		return func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP(text)} }
	}
	uri := func(text string) edit {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{must(url.Parse(text))(t)} }
	}
	mail := func(text string) edit { return func(c *x509.Certificate) { c.EmailAddresses = []string{text} } }
	const names = "names of this kind are not compared with constraints"
	for name, of := range map[string]struct {
		accepted         bool
		constraint, leaf edit
		stricter         string
	}{
		"permitted":                 {true, permits, dns("a.example.com"), ""},
		"permitted itself":          {true, permits, dns("example.com"), ""},
		"not permitted":             {false, permits, dns("a.example.org"), ""},
		"one of two not permitted":  {false, permits, dns("a.example.com", "a.example.org"), ""},
		"ends alike":                {false, permits, dns("anexample.com"), ""},
		"wildcard permitted":        {true, permits, dns("*.example.com"), ""},
		"wildcard not permitted":    {false, permits, dns("*.com"), ""},
		"no name":                   {true, permits, notCA, ""},
		"an address is not a name":  {true, permits, ip("10.1.1.1"), ""},
		"excluded":                  {false, excludes, dns("a.evil.example.com"), ""},
		"not excluded":              {true, excludes, dns("a.example.com"), ""},
		"wildcard meets excluded":   {false, excludes, dns("*.example.com"), ""},
		"address permitted":         {true, permitsIP, ip("10.1.1.1"), ""},
		"address not permitted":     {false, permitsIP, ip("11.1.1.1"), ""},
		"address 6 not permitted":   {false, permitsIP, ip("2001:db8::1"), ""},
		"URI permitted":             {true, permitsURI, uri("spiffe://example.com/a"), names},
		"URI not permitted":         {false, permitsURI, uri("spiffe://example.org/a"), ""},
		"mail permitted":            {true, permitsMail, mail("a@example.com"), names},
		"mail not permitted":        {false, permitsMail, mail("a@example.org"), ""},
		"other kinds do not matter": {true, permitsURI, dns("a.example.org"), ""},
	} {
		root := m.root("root names: "+name, of.constraint)
		add("names: root, "+name, of.accepted, root, m.leaf(root, of.leaf))
		stricter(of.stricter)
		root = m.root("names: " + name)
		sub := m.sub("sub names: "+name, root, of.constraint)
		add("names: intermediate, "+name, of.accepted, root, m.leaf(sub, of.leaf), sub)
		stricter(of.stricter)
	}
	root = m.root("names: CA as leaf", permits)
	add("names: CA as leaf, permitted", true, root, m.leaf(root, isCA, dns("a.example.com")))
	stricter("a CA with constraints vouches for no other CA")
	add("names: CA as leaf, not permitted", false, root, m.leaf(root, isCA, dns("a.example.org")))

	// Leaves that are trusted themselves.
	for name, of := range map[string]struct {
		accepted bool
		edits    []edit
	}{
		"plain": {true, nil}, "CA": {true, []edit{isCA}}, "expired": {false, []edit{expired}},
		"usage of servers": {false, []edit{ekus(server)}}, "unknown critical extension": {false, []edit{unknown(true)}},
		"may not sign": {true, []edit{usage(x509.KeyUsageKeyEncipherment)}},
	} {
		leaf := m.make("pinned: "+name, nil, append([]edit{ekus(client)}, of.edits...)...)
		add("trusted leaf: "+name, of.accepted, leaf, leaf)
	}
	add("self-signed stranger", false, m.root("bystander"), m.make("self-signed stranger", nil))

	// Keys and signatures.
	keys := map[string]crypto.Signer{
		"RSA 2048": must(rsa.GenerateKey(rand.Reader, 2048))(t), "RSA 1024": must(rsa.GenerateKey(rand.Reader, 1024))(t),
		"P-384":   must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t),
		"P-521":   must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t),
		"Ed25519": second2(ed25519.GenerateKey(rand.Reader))(t),
	}
	for name, key := range keys {
		small := ""
		if name == "RSA 1024" {
			small = "RSA keys below 2048 bits are too weak"
		}
		root := m.makeWith("key: "+name, key, nil, isCA, usage(x509.KeyUsageCertSign))
		add("key: CA of "+name, true, root, m.leaf(root))
		stricter(small)
		root = m.root("key of leaf: " + name)
		add("key: leaf of "+name, true, root, m.makeWith("leaf", key, root, ekus(client)))
		stricter(small)
	}
	for name, algorithm := range map[string]x509.SignatureAlgorithm{
		"RSA-PSS": x509.SHA256WithRSAPSS, "SHA-512": x509.SHA512WithRSA,
	} {
		root := m.makeWith("signature: "+name, keys["RSA 2048"], nil, isCA, usage(x509.KeyUsageCertSign))
		add("signature: "+name, true, root, m.leaf(root, func(c *x509.Certificate) { c.SignatureAlgorithm = algorithm }))
	}
	rsaRoot := m.makeWith("signature: weak", keys["RSA 2048"], nil, isCA, usage(x509.KeyUsageCertSign))
	for _, digest := range []string{"sha1", "md5"} {
		for kind, extfile := range map[string]string{"": "basicConstraints=CA:FALSE", ", CA as leaf": "basicConstraints=CA:TRUE"} {
			file := pki.Write(t, "ext", extfile+"\n")
			leaf := m.openssl(pki, rsaRoot, digest, "-"+digest, "-extfile", file)
			add("signature: "+digest+kind, false, rsaRoot, leaf)
		}
	}

	// Version 1.
	root = m.root("version 1")
	v1 := m.openssl(pki, root, "v1", "-sha256")
	if v1.cert.Version != 1 {
		t.Log("SKIPPED: this openssl makes no version 1 certificates")
		return cases
	}
	add("version 1: leaf", true, root, v1)
	add("version 1: intermediate", false, root, m.leaf(v1), v1)
	add("version 1: intermediate, CA as leaf", false, root, m.leaf(v1, isCA), v1)
	v1 = m.openssl(pki, root, "v1-root", "-sha256")
	add("version 1: root", true, v1, m.leaf(v1))
	sub := m.sub("sub of version 1", root, usage(x509.KeyUsageDigitalSignature))
	add("version 1: leaf of an intermediate that may not sign", false, root, m.openssl(pki, sub, "v1-bad", "-sha256"), sub)
	root = m.root("version 1, servers", ekus(server))
	add("version 1: leaf of a root for servers", false, root, m.openssl(pki, root, "v1-server", "-sha256"))
	root = m.root("version 1, constrained", permits)
	add("version 1: leaf of a constrained root", true, root, m.openssl(pki, root, "v1-constrained", "-sha256"))
	stricter("a CA with constraints vouches for no leaf without extensions")
	return cases
}

// leafUnparsed is a leaf with one extension twice, which Go's own parser refuses.
func (m *mill) leafUnparsed(root *issued) *issued {
	m.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(m.t)
	one := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2}}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(77), Subject: pkix.Name{CommonName: "twice"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{one, one},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, root.cert, key.Public(), root.key))(m.t)
	return &issued{&x509.Certificate{Raw: der}, key}
}

func second2[A, B any](_ A, value B, err error) func(t testing.TB) B { return must(value, err) }

// goAccepts asks crypto/x509 as etcd configures it.
func (c chainCase) goAccepts() error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.root.cert)
	leaf, err := x509.ParseCertificate(c.chain[0].cert.Raw)
	if err != nil {
		return err
	}
	for _, one := range c.chain[1:] {
		intermediates.AddCert(one.cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// Every shape of a client's chain is decided by etcd as by Go's own library, and by keepd likewise
// or more strictly.
func TestClientChains(t *testing.T) {
	pki := harness.OpenSSL(t)
	cases := chainCases(t, pki)
	bundle := string(must(os.ReadFile(pki.Path("ca.crt")))(t))
	for _, c := range cases {
		if err := c.goAccepts(); (err == nil) != c.accepted {
			t.Errorf("%s: crypto/x509 says %v, expected accepted=%v", c.name, err, c.accepted)
		}
		bundle += pemOf("CERTIFICATE", c.root.cert.Raw)
	}
	pki.Write(t, "ca.crt", bundle)
	accepted, refused := 0, 0
	for _, flavor := range harness.Flavors() {
		if flavor == harness.KeepdSealed {
			continue
		}
		t.Run(string(flavor), func(t *testing.T) {
			s := harness.Start(t, harness.Options{Flavor: flavor, PKI: pki})
			for _, c := range cases {
				err := showChain(t, s, c)
				if err != nil && !strings.Contains(err.Error(), "remote error: tls: ") {
					t.Errorf("%s: no answer of TLS: %v", c.name, err)
				}
				want := c.accepted && (c.stricter == "" || !flavor.IsKeepd())
				if (err == nil) != want {
					t.Errorf("%s: %v, expected accepted=%v", c.name, err, want)
				}
				if err == nil {
					accepted++
				} else {
					refused++
				}
			}
		})
	}
	t.Logf("%d chains: accepted %d times, refused %d times", len(cases), accepted, refused)
}

func showChain(t *testing.T, s *harness.Store, c chainCase) error {
	t.Helper()
	shown := tls.Certificate{PrivateKey: c.chain[0].key}
	for _, one := range c.chain {
		shown.Certificate = append(shown.Certificate, one.cert.Raw)
	}
	return showPair(t, s, shown)
}

// showPair asks for the version with a client's certificate.
func showPair(t *testing.T, s *harness.Store, shown tls.Certificate) error {
	t.Helper()
	config := s.PKI.AnonymousTLS(t)
	// Whatever issuers the server names, this is what is shown.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
	client := &http.Client{
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 10 * time.Second,
	}
	response, err := client.Get(s.ClientURL + "/version")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
