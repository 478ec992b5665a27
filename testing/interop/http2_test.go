package interop

import (
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keepd/keepd/testing/interop/harness"
)

type rawCall struct {
	name    string
	path    string
	changes []harness.Field
	// data defaults to one range request.
	data []byte
	// keepd is its answer where it differs on purpose; COMPAT.md says why.
	keepd string
}

func field(name, value string) harness.Field { return harness.Field{Name: name, Value: value} }

func zipped(payload []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(payload)
	_ = w.Close()
	framed := harness.Message(out.Bytes())
	framed[0] = 1
	return framed
}

func rawCalls(t *testing.T) []rawCall {
	request := must(proto.Marshal(&pb.RangeRequest{Key: []byte("k")}))(t)
	whole := harness.Message(request)
	const rangeCall, watchCall = "/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch"
	var calls []rawCall
	with := func(name string, changes ...harness.Field) {
		calls = append(calls, rawCall{name: name, path: rangeCall, changes: changes, data: whole})
	}
	body := func(name string, data []byte, changes ...harness.Field) {
		calls = append(calls, rawCall{name: name, path: rangeCall, changes: changes, data: data})
	}
	path := func(path string) {
		calls = append(calls, rawCall{name: "path " + path, path: path, data: whole})
	}
	with("as it should be")
	for _, authority := range []string{"#initially=[https://host:2379]", "/run/etcd.sock",
		"%2Frun%2Fetcd.sock", "a b", " ", "", "host:port", "::1", "user@host", "a,b", "\"", "\u00fc"} {
		with("authority "+authority, field(":authority", authority))
	}
	with("no authority", field(":authority", harness.Absent))
	with("host", field(":authority", harness.Absent), field("host", "/x y"))
	with("host and authority", field("host", "h"))
	with("two authorities", field("+:authority", "b"))
	with("no scheme", field(":scheme", harness.Absent))
	with("scheme https", field(":scheme", "https"))
	with("scheme of its own", field(":scheme", "a:b"))
	with("empty scheme", field(":scheme", ""))
	with("no path", field(":path", harness.Absent))
	with("no method", field(":method", harness.Absent))
	for _, method := range []string{"GET", "PUT", "OPTIONS", "HEAD", "DELETE", "post", "CONNECT", "FOO"} {
		with("method "+method, field(":method", method))
	}
	for _, kind := range []string{"application/grpc+proto", "application/grpc;proto", "application/grpc; charset=utf-8",
		"application/grpc+json", "application/grpc+", "application/grpc-web", "application/grpcx", "application/GRPC",
		"application/json", "text/plain", "application/grpc+proto;x=y", ""} {
		with("content-type "+kind, field("content-type", kind))
	}
	with("no content-type", field("content-type", harness.Absent))
	for _, timeout := range []string{"10S", "1H", "99999999n", "0S", "0n", "1n", "S", "1", "", "x", "-1S", "+1S", "1s", "123456789S", "1 S",
		"10SS", "99999999H"} {
		with("timeout "+timeout, field("grpc-timeout", timeout))
	}
	for _, te := range []string{"gzip", "Trailers", "trailers, gzip", ""} {
		with("te "+te, field("te", te))
	}
	with("no te", field("te", harness.Absent))
	for _, f := range []harness.Field{
		{Name: "X-Upper", Value: "v"}, {Name: "bad name", Value: "v"}, {Name: "x-bad-value", Value: "a\nb"}, {Name: "", Value: "v"},
		{Name: ":unknown", Value: "v"}, {Name: "x\u00e9", Value: "v"}, {Name: "connection", Value: "close"},
		{Name: "keep-alive", Value: "x"}, {Name: "proxy-connection", Value: "x"}, {Name: "transfer-encoding", Value: "chunked"},
		{Name: "upgrade", Value: "h2c"}, {Name: "x-bin", Value: "v"}, {Name: "data-bin", Value: "!!"}, {Name: "data-bin", Value: "YQ"},
		{Name: "grpc-unknown", Value: "v"}, {Name: "content-length", Value: "3"}, {Name: "content-length", Value: "1000"},
		{Name: "content-length", Value: "x"}, {Name: "x-latin", Value: "\xe9"}, {Name: "cookie", Value: "a=b"},
		{Name: "expect", Value: "100-continue"}, {Name: "accept-encoding", Value: "gzip"},
	} {
		with("field "+f.Name+": "+f.Value, f)
	}
	with("two hosts", field("host", "a"), field("+host", "b"))
	with("token of 17,000 bytes", field("token", strings.Repeat("t", 17_000)))
	with("token of 200,000 bytes", field("token", strings.Repeat("t", 200_000)))
	var many []harness.Field
	for i := range 400 {
		many = append(many, field("x-header-"+strings.Repeat("a", i%50)+string(rune('a'+i%26))+"-"+strings.Repeat("b", i/50), "some value of it"))
	}
	with("400 fields", many...)

	for _, p := range []string{rangeCall + "?x=1", rangeCall + "#f", rangeCall + "/", "/etcdserverpb.KV/Nothing", "/no.Service/Put",
		"/a/b/c", "/", "", "//", "/etcdserverpb.KV", "etcdserverpb.KV/Range", "*", "http://host/etcdserverpb.KV/Range",
		"/etcdserverpb.KV/range", "/etcdserverpb.KV/Ran%67e", "/x y/z", "/etcdserverpb.KV//Range", "/\u00fc/x"} {
		path(p)
	}

	body("nothing", []byte{})
	body("half a prefix", whole[:3])
	body("half a message", whole[:len(whole)-1])
	body("two messages", append(append([]byte{}, whole...), whole...))
	body("trailing bytes", append(append([]byte{}, whole...), 1, 2, 3))
	body("trailing zeros", append(append([]byte{}, whole...), 0, 0, 0, 0, 0))
	body("not a message", harness.Message([]byte{0xff}))
	body("too large", harness.Message(make([]byte, 3<<20))[:5])
	body("flag 1 without encoding", append([]byte{1}, whole[1:]...))
	body("flag 2", append([]byte{2}, whole[1:]...))
	body("flag 2 with gzip", append([]byte{2}, whole[1:]...), field("grpc-encoding", "gzip"))
	body("gzip", zipped(request), field("grpc-encoding", "gzip"), field("grpc-accept-encoding", "gzip"))
	body("gzip, nothing accepted", zipped(request), field("grpc-encoding", "gzip"))
	body("gzip, deflate accepted", zipped(request), field("grpc-encoding", "gzip"), field("grpc-accept-encoding", "deflate"))
	body("gzip, not compressed", whole, field("grpc-encoding", "gzip"))
	body("accepts gzip", whole, field("grpc-accept-encoding", "gzip"))
	body("accepts many", whole, field("grpc-accept-encoding", "identity, deflate, gzip"))
	body("gzip, garbage", append([]byte{1}, whole[1:]...), field("grpc-encoding", "gzip"))
	body("gzip, of no bytes", []byte{1, 0, 0, 0, 0}, field("grpc-encoding", "gzip"))
	truncated := zipped(request)
	truncated = truncated[:len(truncated)-6]
	truncated[4] -= 6
	body("gzip, checksum cut off", truncated, field("grpc-encoding", "gzip"))
	body("gzip, a bomb", zipped(make([]byte, 3<<20)), field("grpc-encoding", "gzip"))
	body("gzip, an empty request", zipped(nil), field("grpc-encoding", "gzip"))
	body("identity", whole, field("grpc-encoding", "identity"))
	body("empty encoding", whole, field("grpc-encoding", ""))
	body("deflate", whole, field("grpc-encoding", "deflate"))
	body("snappy, compressed", zipped(request), field("grpc-encoding", "snappy"))
	body("GZIP", zipped(request), field("grpc-encoding", "GZIP"))

	status := must(proto.Marshal(&pb.StatusRequest{}))(t)
	calls = append(calls,
		rawCall{name: "Status with gzip", path: "/etcdserverpb.Maintenance/Status", data: zipped(status),
			changes: []harness.Field{field("grpc-encoding", "gzip")}},
		rawCall{name: "Status, two messages", path: "/etcdserverpb.Maintenance/Status",
			data: append(harness.Message(status), harness.Message(status)...)},
		rawCall{name: "Status, nothing", path: "/etcdserverpb.Maintenance/Status", data: []byte{}},
		rawCall{name: "Status, half a message", path: "/etcdserverpb.Maintenance/Status", data: []byte{0, 0, 0, 0, 9}},
		rawCall{name: "Snapshot, nothing", path: "/etcdserverpb.Maintenance/Snapshot", data: []byte{}},
		rawCall{name: "Snapshot, half a message", path: "/etcdserverpb.Maintenance/Snapshot", data: []byte{0, 0, 0, 0, 9}},
		rawCall{name: "Snapshot, gzip", path: "/etcdserverpb.Maintenance/Snapshot", data: zipped(nil),
			changes: []harness.Field{field("grpc-encoding", "gzip")}},
		rawCall{name: "RangeStream, gzip", path: "/etcdserverpb.KV/RangeStream", data: zipped(request),
			changes: []harness.Field{field("grpc-encoding", "gzip")}},
		rawCall{name: "RangeStream, nothing", path: "/etcdserverpb.KV/RangeStream", data: []byte{}},
		rawCall{name: "Watch, half a message", path: watchCall, data: []byte{0, 0, 0, 0, 9, 1}},
		rawCall{name: "Watch, too large", path: watchCall, data: []byte{0, 0xff, 0, 0, 9, 1}},
		rawCall{name: "Watch, not a message", path: watchCall, data: harness.Message([]byte{0xff})},
		rawCall{name: "Watch, deflate", path: watchCall, data: harness.Message(nil), changes: []harness.Field{field("grpc-encoding", "deflate")}},
		rawCall{name: "KeepAlive, half a message", path: "/etcdserverpb.Lease/LeaseKeepAlive", data: []byte{0, 0, 0, 0, 9, 1}},
		rawCall{name: "KeepAlive, gzip", path: "/etcdserverpb.Lease/LeaseKeepAlive", data: zipped(must(proto.Marshal(&pb.LeaseKeepAliveRequest{ID: 7}))(t)),
			changes: []harness.Field{field("grpc-encoding", "gzip")}},
	)
	return append(calls, malformed()...)
}

// malformed are messages that no decoder takes, for every method whatever answers it.
func malformed() []rawCall {
	var calls []rawCall
	add := func(path, name string, message []byte) {
		calls = append(calls, rawCall{name: path + ", " + name, path: path, data: harness.Message(message)})
	}
	for _, path := range grpcMethods {
		add(path, "half a tag", []byte{0xff})
		add(path, "half a field", []byte{0x7a, 5, 'a'})
	}
	for name, message := range map[string][]byte{
		"half a number": {0x78, 0x80}, "wire type 7": {0x7f}, "field 0": {0x00, 0x00}, "the end of no group": {0x7c},
		"a group without end": {0x7b}, "a number of eleven bytes": {0x78, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1},
	} {
		for _, path := range []string{"/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream", "/etcdserverpb.Watch/Watch",
			"/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Lease/LeaseKeepAlive"} {
			add(path, name, message)
		}
	}
	// Bytes in the place of a text.
	add("/etcdserverpb.Auth/Authenticate", "no UTF-8", []byte{0x0a, 1, 0xff})
	add("/grpc.health.v1.Health/Check", "no UTF-8", []byte{0x0a, 1, 0xff})
	add("/grpc.health.v1.Health/Watch", "no UTF-8", []byte{0x0a, 1, 0xff})
	add("/etcdserverpb.Cluster/MemberAdd", "no UTF-8", []byte{0x0a, 1, 0xff})
	// Fields of another type than theirs are unknown ones to Go.
	mistyped := len(calls)
	add("/etcdserverpb.KV/Range", "a number for a key", []byte{0x0a, 1, 'k', 0x08, 1})
	add("/etcdserverpb.KV/Range", "a text for a limit", []byte{0x0a, 1, 'k', 0x1a, 1, 'x'})
	add("/etcdserverpb.Lease/LeaseTimeToLive", "a text for an id", []byte{0x0a, 1, 'x'})
	add("/etcdserverpb.KV/Txn", "a number for a comparison", []byte{0x08, 1})
	for i := range calls[mistyped:] {
		calls[mistyped+i].keepd = "status=200, content-type=application/grpc, grpc-status=13, " +
			"grpc-message=grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"
	}
	add("/etcdserverpb.KV/Range", "unknown fields", []byte{0x0a, 1, 'k', 0xf8, 0x7f, 1, 0xfa, 0x7f, 1, 'x', 0x7b, 0x08, 1, 0x7c})
	return calls
}

// Every call goes over a connection of its own, and a good one after it shows whether that lived.
func TestRawHTTP2Requests(t *testing.T) {
	t.Parallel()
	calls := rawCalls(t)
	answers := map[harness.Flavor][]string{}
	for _, flavor := range harness.Flavors() {
		if flavor == harness.KeepdSealed {
			continue
		}
		s := harness.Start(t, harness.Options{Flavor: flavor})
		for _, call := range calls {
			answers[flavor] = append(answers[flavor], rawAnswer(t, s, call))
		}
	}
	for i, call := range calls {
		want := answers[harness.Etcd][i]
		if answers[harness.Keepd] == nil {
			continue
		}
		got := answers[harness.Keepd][i]
		if call.keepd != "" {
			if got == want {
				t.Errorf("%q does not differ any more: %s", call.name, got)
			}
			want = call.keepd
		}
		equal(t, call.name, got, want)
	}
}

func rawAnswer(t *testing.T, s *harness.Store, call rawCall) string {
	t.Helper()
	h := s.HTTP2()
	defer h.Close()
	stream := must(h.Open(harness.GRPC(call.path, call.changes...), false))(t)
	_ = h.Send(stream, call.data)
	answer := h.Receive(stream, 2*time.Second).String()
	good := rawCalls(t)[0]
	stream, err := h.Open(harness.GRPC(good.path), false)
	if err == nil {
		err = h.Send(stream, good.data)
	}
	if next := h.Receive(stream, 2*time.Second); err != nil || next.Fields["grpc-status"] != "0" {
		answer += "; then the connection is of no use: " + next.String()
	}
	return answer
}
