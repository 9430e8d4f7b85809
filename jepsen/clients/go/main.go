// Go's own client against a running cluster: go run . HOST:PORT,HOST:PORT,...
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var checks int

func check(actual, expected any) {
	if !reflect.DeepEqual(actual, expected) {
		panic(fmt.Sprintf("%#v is not %#v", actual, expected))
	}
	checks++
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func values(kvs *clientv3.GetResponse) (values []string) {
	for _, kv := range kvs.Kvs {
		values = append(values, string(kv.Value))
	}
	return values
}

func keyValues(ctx context.Context, c *clientv3.Client) {
	must(c.Put(ctx, "go/a", "1"))
	put := must(c.Put(ctx, "go/a", "2", clientv3.WithPrevKV()))
	check(string(put.PrevKv.Value), "1")
	must(c.Put(ctx, "go/b", "3"))
	check(values(must(c.Get(ctx, "go/", clientv3.WithPrefix()))), []string{"2", "3"})
	check(values(must(c.Get(ctx, "go/", clientv3.WithLastRev()...))), []string{"3"})
	check(values(must(c.Get(ctx, "go/a", clientv3.WithRev(put.Header.Revision-1)))), []string{"1"})
	limited := must(c.Get(ctx, "go/", clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly()))
	check([]any{limited.More, limited.Count, string(limited.Kvs[0].Key)}, []any{true, int64(2), "go/a"})
	_, err := c.Get(ctx, "go/a", clientv3.WithRev(1<<40))
	check(errors.Is(err, rpctypes.ErrFutureRev), true)
	_, err = c.Put(ctx, "", "")
	check(errors.Is(err, rpctypes.ErrEmptyKey), true)
	check(must(c.Delete(ctx, "go/b")).Deleted, int64(1))
}

func transactions(ctx context.Context, c *clientv3.Client) {
	kv := clientv3.NewKV(c)
	txn := must(kv.Txn(ctx).If(clientv3.Compare(clientv3.Value("go/a"), "=", "2"), clientv3.Compare(clientv3.CreateRevision("go/no"), "=", 0)).
		Then(clientv3.OpPut("go/t", "yes"), clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("go/t")}, nil)).
		Else(clientv3.OpPut("go/t", "no")).Commit())
	check(txn.Succeeded, true)
	check(string(txn.Responses[1].GetResponseTxn().Responses[0].GetResponseRange().Kvs[0].Value), "yes")
	_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
		stm.Put("go/t", stm.Get("go/t")+"!")
		return nil
	})
	check(err, nil)
	check(values(must(c.Get(ctx, "go/t"))), []string{"yes!"})
	_, err = c.Txn(ctx).Then(clientv3.OpPut("go/t", "1"), clientv3.OpPut("go/t", "2")).Commit()
	check(errors.Is(err, rpctypes.ErrDuplicateKey), true)
}

func watches(ctx context.Context, c *clientv3.Client) {
	watch, stop := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer stop()
	events := c.Watch(watch, "go/w/", clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
	check((<-events).Created, true)
	first := must(c.Put(ctx, "go/w/a", "1"))
	must(c.Txn(ctx).Then(clientv3.OpPut("go/w/a", "2"), clientv3.OpPut("go/w/b", "3")).Commit())
	last := must(c.Delete(ctx, "go/w/a"))
	var seen []string
	for len(seen) < 4 {
		for _, event := range (<-events).Events {
			previous := "-"
			if event.PrevKv != nil {
				previous = string(event.PrevKv.Value)
			}
			seen = append(seen, fmt.Sprintf("%s %s %s", event.Type, event.Kv.Key, previous))
		}
	}
	check(seen, []string{"PUT go/w/a -", "PUT go/w/a 1", "PUT go/w/b -", "DELETE go/w/a 2"})
	if err := c.RequestProgress(watch); err != nil {
		panic(err)
	}
	progress := <-events
	check([]bool{progress.IsProgressNotify(), progress.Header.Revision >= last.Header.Revision}, []bool{true, true})
	must(c.Compact(ctx, last.Header.Revision, clientv3.WithCompactPhysical()))
	// The member that is asked may hear of the compaction a little later.
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		again, stop := context.WithCancel(ctx)
		late := <-c.Watch(again, "go/w/a", clientv3.WithRev(first.Header.Revision))
		stop()
		if late.Canceled || time.Since(began) > 10*time.Second {
			check([]any{late.CompactRevision, errors.Is(late.Err(), rpctypes.ErrCompacted)}, []any{last.Header.Revision, true})
			return
		}
	}
}

func leases(ctx context.Context, c *clientv3.Client) {
	lease := must(c.Grant(ctx, 2))
	must(c.Put(ctx, "go/l", "1", clientv3.WithLease(lease.ID)))
	alive, stop := context.WithCancel(ctx)
	kept := must(c.KeepAlive(alive, lease.ID))
	check((<-kept).TTL, int64(2))
	time.Sleep(3 * time.Second)
	left := must(c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys()))
	check([]any{left.GrantedTTL, string(left.Keys[0])}, []any{int64(2), "go/l"})
	stop()
	for began := time.Now(); len(must(c.Get(ctx, "go/l")).Kvs) > 0; time.Sleep(200 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			panic("the lease does not expire")
		}
	}
	_, err := c.Revoke(ctx, lease.ID)
	check(errors.Is(err, rpctypes.ErrLeaseNotFound), true)
}

func locksAndElections(ctx context.Context, c *clientv3.Client) {
	one, two := must(concurrency.NewSession(c, concurrency.WithTTL(20))), must(concurrency.NewSession(c, concurrency.WithTTL(20)))
	defer one.Close()
	defer two.Close()
	mine, theirs := concurrency.NewMutex(one, "go/lock"), concurrency.NewMutex(two, "go/lock")
	check(mine.Lock(ctx), nil)
	check(errors.Is(theirs.TryLock(ctx), concurrency.ErrLocked), true)
	acquired := make(chan error, 1)
	go func() { acquired <- theirs.Lock(ctx) }()
	check(mine.Unlock(ctx), nil)
	check(<-acquired, nil)
	check(theirs.Unlock(ctx), nil)
	election := concurrency.NewElection(one, "go/election")
	check(election.Campaign(ctx, "me"), nil)
	check(string(must(concurrency.NewElection(two, "go/election").Leader(ctx)).Kvs[0].Value), "me")
	check(election.Resign(ctx), nil)
}

func cluster(ctx context.Context, c *clientv3.Client, endpoints []string) {
	check(len(must(c.MemberList(ctx)).Members), len(endpoints))
	leader := uint64(0)
	for _, endpoint := range endpoints {
		status := must(c.Status(ctx, endpoint))
		check(status.Version, "3.7.1")
		leader = status.Leader
	}
	check(leader != 0, true)
	check(len(must(c.AlarmList(ctx)).Alarms), 0)
	check(c.Sync(ctx), nil)
}

func main() {
	endpoints := strings.Split(os.Args[1], ",")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := must(clientv3.New(clientv3.Config{
		Endpoints: endpoints, DialTimeout: 5 * time.Second,
		// As a Kubernetes API server has it.
		DialKeepAliveTime: 30 * time.Second, DialKeepAliveTimeout: 10 * time.Second,
	}))
	defer c.Close()
	must(c.Delete(ctx, "go/", clientv3.WithPrefix()))
	keyValues(ctx, c)
	transactions(ctx, c)
	watches(ctx, c)
	leases(ctx, c)
	locksAndElections(ctx, c)
	cluster(ctx, c, endpoints)
	must(c.Delete(ctx, "go/", clientv3.WithPrefix()))
	fmt.Printf("go client/v3: %d checks passed\n", checks)
}
