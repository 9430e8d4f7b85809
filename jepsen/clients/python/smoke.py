"""PyPI's etcd3 against a running cluster: python smoke.py HOST:PORT,HOST:PORT,..."""

import sys
import threading
import time

import etcd3

endpoints = [endpoint.split(":") for endpoint in sys.argv[1].split(",")]
clients = [etcd3.client(host=host, port=int(port), timeout=10) for host, port in endpoints]
first, last = clients[0], clients[-1]
checks = 0


def check(actual, expected):
    global checks
    assert actual == expected, f"{actual!r} is not {expected!r}"
    checks += 1


def key_values():
    first.put("python/a", "1")
    value, meta = last.get("python/a")
    check((value, meta.key, meta.version), (b"1", b"python/a", 1))
    previous = last.put("python/a", "2", prev_kv=True).prev_kv
    check((previous.value, previous.mod_revision), (b"1", meta.mod_revision))
    first.put("python/b", "3")
    check([value for value, _ in last.get_prefix("python/")], [b"2", b"3"])
    check([value for value, _ in last.get_prefix("python/", sort_order="descend", sort_target="mod")], [b"3", b"2"])
    check([meta.key for _, meta in last.get_range("python/a", "python/b")], [b"python/a"])
    check(first.get("python/missing"), (None, None))
    check(last.delete("python/b"), True)
    check(last.delete("python/b"), False)
    check(first.delete_prefix("python/").deleted, 1)
    check(first.put_if_not_exists("python/a", "1"), True)
    check(last.put_if_not_exists("python/a", "2"), False)
    check(first.replace("python/a", "1", "2"), True)
    check(last.replace("python/a", "1", "3"), False)


def transactions():
    compare, then = first.transactions.value("python/a") == "2", first.transactions.put("python/t", "yes")
    otherwise, get = first.transactions.put("python/t", "no"), first.transactions.get("python/t")
    check(first.transaction(compare=[compare], success=[then, get], failure=[otherwise])[0], True)
    check(last.get("python/t")[0], b"yes")
    compare = last.transactions.version("python/t") > 5
    succeeded, responses = last.transaction(compare=[compare], success=[otherwise], failure=[get])
    check((succeeded, responses[0][0][0]), (False, b"yes"))


def watches():
    events, cancel = last.watch_prefix("python/w/")
    first.put("python/w/a", "1")
    first.put("python/w/b", "2")
    first.delete("python/w/a")
    seen = [next(events) for _ in range(3)]
    cancel()
    check([(type(e).__name__, e.key, e.value) for e in seen], [
        ("PutEvent", b"python/w/a", b"1"), ("PutEvent", b"python/w/b", b"2"), ("DeleteEvent", b"python/w/a", b"")])
    events, cancel = first.watch("python/w/b", start_revision=seen[1].mod_revision)
    check(next(events).value, b"2")
    cancel()
    first.compact(seen[2].mod_revision)
    last.get("python/w/b")  # by then the other member has heard of it, too
    try:
        list(zip(range(1), last.watch("python/w/b", start_revision=1)[0]))
        raise AssertionError("a compacted watch went on")
    except etcd3.exceptions.RevisionCompactedError as error:
        check(error.compacted_revision, seen[2].mod_revision)


def leases():
    lease = first.lease(60)
    last.put("python/l", "1", lease=lease.id)
    check((lease.granted_ttl, list(lease.keys)), (60, [b"python/l"]))
    check(0 < lease.remaining_ttl <= 60, True)
    check(lease.refresh()[0].TTL, 60)
    lease.revoke()
    check(last.get("python/l"), (None, None))
    short = last.lease(2)
    first.put("python/l", "1", lease=short.id)
    deadline = time.monotonic() + 20
    while first.get("python/l")[0] is not None:
        assert time.monotonic() < deadline, "the lease does not expire"
        time.sleep(0.2)
    check(last.get_lease_info(short.id).TTL, -1)


def locks():
    held, order = threading.Event(), []
    with first.lock("python/lock", ttl=20) as lock:
        check(lock.is_acquired(), True)

        def contend():
            with last.lock("python/lock", ttl=20):
                order.append("second")
                held.set()

        contender = threading.Thread(target=contend)
        contender.start()
        check(held.wait(1), False)
        order.append("first")
    contender.join(20)
    check(order, ["first", "second"])


def cluster():
    check(len(list(first.members)), len(endpoints))
    status = last.status()
    check((status.version, bool(status.leader)), ("3.7.1", True))
    check(list(first.list_alarms()), [])


first.delete_prefix("python/")
for part in (key_values, transactions, watches, leases, locks, cluster):
    part()
first.delete_prefix("python/")
print(f"python etcd3: {checks} checks passed")
