// The etcd that Quorate is compared with: ci/differential.sh builds it from etcd's published modules.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
