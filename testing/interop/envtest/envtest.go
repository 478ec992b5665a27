// Package envtest names controller-runtime, so that its own tests can be built and run with keepd as
// the etcd of their test environment. A module of its own: it pins Kubernetes' libraries.
package envtest

import _ "sigs.k8s.io/controller-runtime/pkg/envtest"
