package harness

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// PKI is a folder with ca, server and client certificates (NAME.crt, NAME.key).
type PKI struct {
	dir string
}

// Path is the path of a file of the PKI.
func (p *PKI) Path(name string) string { return filepath.Join(p.dir, name) }

// ClientTLS is the configuration of a client that presents the client certificate.
func (p *PKI) ClientTLS(t testing.TB) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.Path("client.crt"), p.Path("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	config := p.AnonymousTLS(t)
	config.Certificates = []tls.Certificate{pair}
	return config
}

// AnonymousTLS trusts the CA and presents no certificate.
func (p *PKI) AnonymousTLS(t testing.TB) *tls.Config {
	t.Helper()
	ca, err := os.ReadFile(p.Path("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate in ca.crt")
	}
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// Write adds a file.
func (p *PKI) Write(t testing.TB, name, content string) string {
	t.Helper()
	if err := os.WriteFile(p.Path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p.Path(name)
}

// OpenSSL makes a PKI with openssl: EC keys in the older SEC1 form and version 3 leaves. The
// client certificate has no alternative name, as kubeadm's has none.
func OpenSSL(t testing.TB) *PKI {
	t.Helper()
	p := &PKI{t.TempDir()}
	p.OpenSSL(t, "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", "ca.key")
	p.OpenSSL(t, "req", "-x509", "-new", "-key", "ca.key", "-sha256", "-days", "30",
		"-subj", "/CN=test-ca", "-addext", "basicConstraints=critical,CA:TRUE",
		"-addext", "keyUsage=critical,keyCertSign,cRLSign,digitalSignature", "-out", "ca.crt")
	p.Leaf(t, "server", "/CN=server", "serverAuth,clientAuth",
		"DNS:localhost,IP:127.0.0.1,IP:::1")
	p.Leaf(t, "client", "/CN=client", "clientAuth", "")
	return p
}

// Leaf adds a certificate that the CA signs.
func (p *PKI) Leaf(t testing.TB, name, subject, usage, names string) {
	t.Helper()
	key, csr := name+".key", name+".csr"
	p.OpenSSL(t, "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
	p.OpenSSL(t, "req", "-new", "-key", key, "-subj", subject, "-out", csr)
	extensions := "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,keyEncipherment\n" +
		"extendedKeyUsage=" + usage + "\n"
	if names != "" {
		extensions += "subjectAltName=" + names + "\n"
	}
	p.Write(t, name+".ext", extensions)
	p.OpenSSL(t, "x509", "-req", "-in", csr, "-CA", "ca.crt", "-CAkey", "ca.key",
		"-CAcreateserial", "-days", "30", "-sha256", "-extfile", name+".ext", "-out", name+".crt")
}

// RSALeafV1 adds a certificate the way short tutorials do: RSA, no extensions file, which gives
// an X.509 version 1 leaf.
func (p *PKI) RSALeafV1(t testing.TB, name, subject string) {
	t.Helper()
	p.OpenSSL(t, "genrsa", "-out", name+".key", "2048")
	p.OpenSSL(t, "req", "-new", "-key", name+".key", "-subj", subject, "-out", name+".csr")
	p.OpenSSL(t, "x509", "-req", "-in", name+".csr", "-CA", "ca.crt", "-CAkey", "ca.key",
		"-CAcreateserial", "-days", "30", "-sha256", "-out", name+".crt")
}

// ServiceAccountKeys adds sa.key and sa.pub, with which kube-apiserver signs tokens.
func (p *PKI) ServiceAccountKeys(t testing.TB) {
	t.Helper()
	p.OpenSSL(t, "genrsa", "-out", "sa.key", "2048")
	p.OpenSSL(t, "rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")
}

// OpenSSL runs openssl in the folder.
func (p *PKI) OpenSSL(t testing.TB, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	p.run(t, "openssl", args...)
}

func (p *PKI) run(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = p.dir
	output, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, output)
	}
	return output
}

// CFSSL makes a PKI with cfssl, as etcd's own documentation does: RSA keys in PKCS#1 form.
func CFSSL(t testing.TB) *PKI {
	t.Helper()
	cfssl := PKITool(t, "cfssl")
	p := &PKI{t.TempDir()}
	p.Write(t, "ca-csr.json", `{"CN":"test-ca","key":{"algo":"rsa","size":2048}}`)
	p.Write(t, "ca-config.json", `{"signing":{"default":{"expiry":"720h"},"profiles":{
		"server":{"expiry":"720h","usages":["signing","key encipherment","server auth","client auth"]},
		"client":{"expiry":"720h","usages":["signing","key encipherment","client auth"]}}}}`)
	p.keep(t, "ca", p.run(t, cfssl, "gencert", "-initca", "ca-csr.json"))
	p.Write(t, "server-csr.json",
		`{"CN":"server","hosts":["localhost","127.0.0.1"],"key":{"algo":"rsa","size":2048}}`)
	p.Write(t, "client-csr.json", `{"CN":"client","hosts":[""],"key":{"algo":"rsa","size":2048}}`)
	for _, name := range []string{"server", "client"} {
		p.keep(t, name, p.run(t, cfssl, "gencert", "-ca=ca.crt", "-ca-key=ca.key",
			"-config=ca-config.json", "-profile="+name, name+"-csr.json"))
	}
	return p
}

// keep does what cfssljson does with cfssl's answer.
func (p *PKI) keep(t testing.TB, name string, answer []byte) {
	t.Helper()
	var bundle struct{ Cert, Key string }
	if err := json.Unmarshal(answer, &bundle); err != nil {
		t.Fatal(err)
	}
	p.Write(t, name+".crt", bundle.Cert)
	p.Write(t, name+".key", bundle.Key)
}
