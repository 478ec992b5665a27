package harness

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Field is a header field as it goes over the wire, pseudo or not.
type Field struct{ Name, Value string }

// HTTP2 is a connection that sends exactly the frames it is told to, allowed or not.
type HTTP2 struct {
	*http2.Framer
	net.Conn
	block   bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
}

// HTTP2 opens such a connection.
func (s *Store) HTTP2() *HTTP2 {
	s.t.Helper()
	conn, err := net.DialTimeout("tcp", s.Endpoint, 10*time.Second)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.PKI != nil {
		config := s.PKI.ClientTLS(s.t)
		config.NextProtos = []string{"h2"}
		conn = tls.Client(conn, config)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	h, err := OpenHTTP2(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return h
}

// OpenHTTP2 begins HTTP/2 on a connection.
func OpenHTTP2(conn net.Conn) (*HTTP2, error) {
	h := &HTTP2{Framer: http2.NewFramer(conn, conn), Conn: conn, next: 1}
	h.AllowIllegalWrites = true
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.encoder = hpack.NewEncoder(&h.block)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		return nil, err
	}
	return h, h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
}

// Open sends a request's header and returns the number of its stream.
func (h *HTTP2) Open(fields []Field, ends bool) (uint32, error) {
	h.block.Reset()
	for _, field := range fields {
		if err := h.encoder.WriteField(hpack.HeaderField{Name: field.Name, Value: field.Value}); err != nil {
			return 0, err
		}
	}
	stream := h.next
	h.next += 2
	block := h.block.Bytes()
	first := block[:min(len(block), 16384)]
	block = block[len(first):]
	err := h.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: first, EndStream: ends, EndHeaders: len(block) == 0,
	})
	for err == nil && len(block) > 0 {
		part := block[:min(len(block), 16384)]
		block = block[len(part):]
		err = h.WriteContinuation(stream, len(block) == 0, part)
	}
	return stream, err
}

// Send sends a request's data in frames as large as allowed, and its end.
func (h *HTTP2) Send(stream uint32, data []byte) error {
	for len(data) > 16384 {
		if err := h.WriteData(stream, false, data[:16384]); err != nil {
			return err
		}
		data = data[16384:]
	}
	return h.WriteData(stream, true, data)
}

// Answer is what came back on a stream.
type Answer struct {
	// Fields are those of the header and of the trailers.
	Fields map[string]string
	Data   []byte
	// Broken says how it ended, if not with its end: RST, GOAWAY, CLOSED or SILENCE.
	Broken string
}

// Receive reads the answer of a stream; what belongs to others is skipped.
func (h *HTTP2) Receive(stream uint32, patience time.Duration) Answer {
	a := Answer{Fields: map[string]string{}}
	_ = h.SetReadDeadline(time.Now().Add(patience))
	for {
		frame, err := h.ReadFrame()
		if err != nil {
			a.Broken = "CLOSED"
			if errors.Is(err, os.ErrDeadlineExceeded) {
				a.Broken = "SILENCE"
			}
			return a
		}
		ends := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = h.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = h.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				a.Broken = "GOAWAY " + f.ErrCode.String()
				return a
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				a.Broken = "RST " + f.ErrCode.String()
				return a
			}
		case *http2.DataFrame:
			if f.StreamID == stream {
				a.Data = append(a.Data, f.Data()...)
				ends = f.StreamEnded()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream {
				for _, field := range f.Fields {
					a.Fields[field.Name] = field.Value
				}
				ends = f.StreamEnded()
			}
		}
		if ends {
			return a
		}
	}
}

// String tells status, kind and messages of an answer, without what differs from store to store.
func (a Answer) String() string {
	var parts []string
	for _, name := range []string{":status", "content-type", "grpc-status", "grpc-message", "grpc-encoding"} {
		// An empty text is as good as none.
		if value := a.Fields[name]; value != "" {
			if name == "grpc-message" {
				value, _ = url.PathUnescape(value)
			}
			parts = append(parts, strings.TrimPrefix(name, ":")+"="+value)
		}
	}
	if strings.HasPrefix(a.Fields["content-type"], "application/grpc") {
		for rest := a.Data; len(rest) >= 5; {
			length := int(binary.BigEndian.Uint32(rest[1:5]))
			kind := map[byte]string{0: "message", 1: "compressed message"}[rest[0]]
			parts = append(parts, kind)
			rest = rest[min(5+length, len(rest)):]
		}
	}
	if a.Broken != "" {
		parts = append(parts, a.Broken)
	}
	return strings.Join(parts, ", ")
}

// Message is a gRPC message with its prefix.
func Message(payload []byte) []byte {
	framed := make([]byte, 5, 5+len(payload))
	binary.BigEndian.PutUint32(framed[1:], uint32(len(payload)))
	return append(framed, payload...)
}

// GRPC are the fields of a call as grpc-go sends them, with some of them changed: a change without
// a value takes a field away, "+name" adds one more.
func GRPC(path string, changes ...Field) []Field {
	fields := []Field{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "127.0.0.1:2379"},
		{"content-type", "application/grpc"}, {"user-agent", "grpc-go/1.82.1"}, {"te", "trailers"},
	}
	for _, change := range changes {
		found := false
		for i, field := range fields {
			if field.Name == change.Name {
				found = true
				if change.Value == Absent {
					fields = append(fields[:i], fields[i+1:]...)
				} else {
					fields[i] = change
				}
				break
			}
		}
		if !found {
			fields = append(fields, Field{strings.TrimPrefix(change.Name, "+"), change.Value})
		}
	}
	return fields
}

// Absent takes a field away.
const Absent = "\x00"
