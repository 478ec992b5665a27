// Command encryption asks kube-apiserver's own loader about EncryptionConfiguration files: one line
// for each, `accepted` or `refused: REASON`.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/klog/v2"
)

func main() {
	klog.LogToStderr(false)
	klog.SetOutput(os.Stderr)
	for _, path := range os.Args[1:] {
		fmt.Println(verdict(path))
	}
}

func verdict(path string) string {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := encryptionconfig.LoadEncryptionConfig(ctx, path, false, "keepd-interop"); err != nil {
		return "refused: " + strings.Join(strings.Fields(err.Error()), " ")
	}
	return "accepted"
}
