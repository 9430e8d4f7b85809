// npm's etcd3 against a running cluster: node smoke.js HOST:PORT,HOST:PORT,...
'use strict';

const assert = require('node:assert');
const { Etcd3, EtcdLeaseInvalidError } = require('etcd3');

const hosts = process.argv[2].split(',').map((host) => `http://${host}`);
const client = new Etcd3({ hosts });
const last = new Etcd3({ hosts: hosts[hosts.length - 1] });
let checks = 0;
const check = (actual, expected) => {
  assert.deepStrictEqual(actual, expected);
  checks += 1;
};

async function keyValues() {
  await client.put('node/a').value('1');
  check(await last.get('node/a').string(), '1');
  const { prev_kv: previous } = await last.put('node/a').value('2').getPrevious().then((kv) => ({ prev_kv: kv }));
  check(previous.value.toString(), '1');
  await client.put('node/b').value('3');
  check(await last.getAll().prefix('node/').strings(), { 'node/a': '2', 'node/b': '3' });
  check(await last.getAll().prefix('node/').sort('Key', 'Descend').limit(1).keys(), ['node/b']);
  check(await client.getAll().prefix('node/').count(), 2);
  check(await client.get('node/missing').string(), null);
  check((await client.delete().key('node/b')).deleted, '1');
}

async function transactions() {
  const swap = (from, to) =>
    client.if('node/a', 'Value', '==', from).then(client.put('node/a').value(to)).else(client.get('node/a')).commit();
  check((await swap('2', '4')).succeeded, true);
  const failed = await swap('2', '5');
  check([failed.succeeded, failed.responses[0].response_range.kvs[0].value.toString()], [false, '4']);
  const created = await client.if('node/new', 'Create', '==', 0).then(client.put('node/new').value('1')).commit();
  check(created.succeeded, true);
  await client.stm().transact(async (tx) => {
    const value = Number(await tx.get('node/a').string());
    await tx.put('node/a').value(value + 1);
  });
  check(await last.get('node/a').number(), 5);
}

async function watches() {
  const watcher = await last.watch().prefix('node/w/').withPreviousKV().create();
  const seen = [];
  const done = new Promise((resolve) => {
    watcher.on('data', (response) => {
      seen.push(...response.events.map((e) => [e.type, e.kv.key.toString(), e.prev_kv ? e.prev_kv.value.toString() : null]));
      if (seen.length === 3) resolve();
    });
  });
  await client.put('node/w/a').value('1');
  await client.put('node/w/a').value('2');
  await client.delete().key('node/w/a');
  await done;
  check(seen, [['Put', 'node/w/a', null], ['Put', 'node/w/a', '1'], ['Delete', 'node/w/a', '2']]);
  await watcher.cancel();
}

async function leases() {
  const lease = client.lease(60, { autoKeepAlive: false });
  await lease.put('node/l').value('1');
  check(await lease.keepaliveOnce().then((reply) => reply.TTL), '60');
  await lease.revoke();
  check(await last.get('node/l').string(), null);
  await assert.rejects(client.leaseClient.leaseRevoke({ ID: 404404 }), /requested lease not found/);
  await assert.rejects(client.put('node/l').value('1').lease(404404).exec(), EtcdLeaseInvalidError);
  checks += 2;
}

async function locksAndElections() {
  const lock = await client.lock('node/lock').ttl(20).acquire();
  await assert.rejects(last.lock('node/lock').ttl(20).acquire(), /lock/i);
  await lock.release();
  const again = await last.lock('node/lock').ttl(20).acquire();
  await again.release();
  const election = client.election('node/election', 20);
  const campaign = election.campaign('me');
  await campaign.wait();
  check(await last.election('node/election', 20).leader(), 'me');
  await campaign.resign();
  checks += 2;
}

async function cluster() {
  const { members } = await client.cluster.memberList({});
  check(members.length, hosts.length);
  check((await client.maintenance.status({})).version, '3.7.1');
}

async function main() {
  await client.delete().prefix('node/');
  for (const part of [keyValues, transactions, watches, leases, locksAndElections, cluster]) await part();
  await client.delete().prefix('node/');
  client.close();
  last.close();
  console.log(`node etcd3: ${checks} checks passed`);
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
