// Package suite names etcd's own end-to-end tests as a dependency, so that they can be built and
// run against keepd. It is a module of its own because they pin other versions of what they share
// with the tests of this repository.
package suite

import _ "go.etcd.io/etcd/tests/v3/common"
