"""Puts and gets through a grpcio channel that compresses with gzip; no generated code is needed."""

import sys

import grpc


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number, value):
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def main(endpoint):
    value = b"v" * 2000
    with grpc.insecure_channel(endpoint, compression=grpc.Compression.Gzip) as channel:
        call = lambda path: channel.unary_unary(
            path, request_serializer=bytes, response_deserializer=bytes
        )
        call("/etcdserverpb.KV/Put")(field(1, b"a") + field(2, value), timeout=10)
        print("put ok")
        answer = call("/etcdserverpb.KV/Range")(field(1, b"a"), timeout=10)
        print("get", answer.count(b"v") if value in answer else "nothing")


main(sys.argv[1])
