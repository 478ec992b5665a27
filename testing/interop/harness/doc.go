// Package harness starts stores (real etcd, or keepd) and the programs that talk to them, so that
// one test function can be run against all of them.
//
// What is tested is chosen by the environment, which `cargo xtask test` sets:
//
//	KEEPD_BIN            the keepd binary; without it only real etcd is tested
//	KEEPD_INTEROP_ETCD   folder of etcd, etcdctl, etcdutl, benchmark
//	KEEPD_INTEROP_KUBE   folder of kube-apiserver, kubectl
//	KEEPD_INTEROP_SUITE  folder of etcd's own end-to-end tests
//
// The folders default to where `cargo xtask tools` puts them. Real etcd always takes part: it
// proves that a test asks for what etcd does, not for what keepd happens to do.
package harness
