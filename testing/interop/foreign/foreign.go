// Package foreign names programs of others that use etcd, so that they can be built and run against
// keepd. It is a module of its own because they pin old versions of etcd's client.
package foreign

import _ "github.com/go-kit/kit/sd/etcdv3"
