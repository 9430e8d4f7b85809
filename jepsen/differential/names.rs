//! What no two clusters have in common: the identities that servers choose. Each is given a name that both sides share,
//! matched by type; everything else is compared as it is.

use std::collections::BTreeMap;
use std::time::Instant;

use quorate_api::etcdserverpb::{self as pb, request_op, response_op};
use quorate_api::mvccpb;

use crate::api::{Answer, Reply, Request};

/// Leases that a server named itself are `AUTO`, `AUTO + 1` and so on, in order of their grants.
pub(crate) const AUTO: i64 = 0x7000_0000_0000_0000;

/// One cluster's identities.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    pub(crate) cluster: u64,
    /// Member IDs in order of the members' numbers.
    pub(crate) members: Vec<u64>,
    /// `host:port` of clients and peers, in order of the members' numbers.
    pub(crate) hosts: Vec<(String, String)>,
    leases: BTreeMap<i64, i64>,
    /// Each user's last token.
    tokens: BTreeMap<String, String>,
    term: u64,
    /// When the script began, or before.
    began: Option<Instant>,
}

impl Names {
    /// The names of a cluster whose members listen there, as yet unknown.
    pub(crate) fn of(hosts: Vec<(String, String)>) -> Self {
        Self { hosts, began: Some(Instant::now()), ..Self::default() }
    }

    /// The lease that this server calls by another name than the script.
    pub(crate) fn real(&self, lease: i64) -> i64 {
        self.leases.iter().find(|(_, name)| **name == lease).map_or(lease, |(real, _)| *real)
    }

    /// What `user` says to be known by.
    pub(crate) fn token(&self, user: Option<&str>) -> Option<&str> {
        user.map(|user| self.tokens.get(user).map_or("unknown.1", String::as_str))
    }

    fn lease(&self, lease: &mut i64) {
        if let Some(name) = self.leases.get(lease) {
            *lease = *name;
        }
    }

    /// The next lease in order that the server named itself.
    fn learn(&mut self, real: i64) {
        let name = AUTO + i64::try_from(self.leases.len()).expect("few");
        self.leases.entry(real).or_insert(name);
    }

    /// Puts this server's names into a request.
    pub(crate) fn translate(&self, request: &mut Request) {
        match request {
            Request::Put(put) => put.lease = self.real(put.lease),
            Request::Txn(txn) => self.translate_txn(txn),
            Request::LeaseGrant(grant) => grant.id = self.real(grant.id),
            Request::LeaseRevoke(revoke) => revoke.id = self.real(revoke.id),
            Request::LeaseTimeToLive(ask) => ask.id = self.real(ask.id),
            _ => {}
        }
    }

    fn translate_txn(&self, txn: &mut pb::TxnRequest) {
        for compare in &mut txn.compare {
            if let Some(pb::compare::TargetUnion::Lease(lease)) = &mut compare.target_union {
                *lease = self.real(*lease);
            }
        }
        for op in txn.success.iter_mut().chain(&mut txn.failure) {
            match &mut op.request {
                Some(request_op::Request::RequestPut(put)) => put.lease = self.real(put.lease),
                Some(request_op::Request::RequestTxn(txn)) => self.translate_txn(txn),
                _ => {}
            }
        }
    }

    /// Replaces this server's names in the answer of `member` to `request`.
    pub(crate) fn mask(&mut self, member: usize, request: &Request, answer: &mut Answer) {
        let Ok(reply) = answer else { return };
        if let Some(header) = reply.header() {
            self.header(member, header);
        }
        match reply {
            Reply::Range(range) => self.kvs(&mut range.kvs),
            Reply::Put(put) => self.kvs(put.prev_kv.as_mut_slice()),
            Reply::DeleteRange(delete) => self.kvs(&mut delete.prev_kvs),
            Reply::Txn(txn) => self.txn(txn),
            Reply::LeaseGrant(grant) => {
                if matches!(request, Request::LeaseGrant(grant) if grant.id == 0) {
                    self.learn(grant.id);
                }
                self.lease(&mut grant.id);
            }
            Reply::LeaseTimeToLive(left) => {
                self.lease(&mut left.id);
                left.keys.sort_unstable(); // etcd leaves their order open
                self.remaining(left);
            }
            Reply::LeaseLeases(list) => {
                for lease in &mut list.leases {
                    self.lease(&mut lease.id);
                }
                list.leases.sort_unstable_by_key(|lease| lease.id); // etcd orders them by what is left of their time
            }
            Reply::MemberList(list) => self.members(&mut list.members),
            Reply::Status(status) => self.status(status),
            Reply::Authenticate(granted) => {
                if let Request::Authenticate(asked) = request
                    && !granted.token.is_empty()
                {
                    self.tokens.insert(asked.name.clone(), std::mem::replace(&mut granted.token, "token".to_owned()));
                }
            }
            _ => {}
        }
    }

    /// Rounds what remains of a lease up to all of it, unless more is missing than can have passed.
    fn remaining(&self, left: &mut pb::LeaseTimeToLiveResponse) {
        let age = self.began.map_or(0, |began| began.elapsed().as_secs());
        // Servers give whole seconds, rounded down.
        let passed_max = i64::try_from(age).unwrap_or(i64::MAX).saturating_add(1);
        if left.granted_ttl > 0 && (0..=passed_max).contains(&(left.granted_ttl - left.ttl)) {
            left.ttl = left.granted_ttl;
        }
    }

    /// Names the cluster 1 and its members 1, 2, 3; a term is whatever does not go back.
    pub(crate) fn header(&mut self, member: usize, header: &mut pb::ResponseHeader) {
        if header.cluster_id == self.cluster {
            header.cluster_id = 1;
        }
        if self.members.get(member) == Some(&header.member_id) {
            header.member_id = 1 + member as u64;
        }
        if header.raft_term > 0 && header.raft_term >= self.term {
            self.term = header.raft_term;
            header.raft_term = 1;
        }
    }

    fn member(&self, id: u64) -> u64 {
        self.members.iter().position(|known| *known == id).map_or(id, |at| 1 + at as u64)
    }

    /// Keys whose leases the server named.
    pub(crate) fn kvs(&self, kvs: &mut [mvccpb::KeyValue]) {
        for kv in kvs {
            self.lease(&mut kv.lease);
        }
    }

    /// The chunks of a range.
    pub(crate) fn chunks(&mut self, member: usize, chunks: &mut [pb::RangeStreamResponse]) {
        for range in chunks.iter_mut().filter_map(|chunk| chunk.range_response.as_mut()) {
            if let Some(header) = &mut range.header {
                self.header(member, header);
            }
            self.kvs(&mut range.kvs);
        }
    }

    fn txn(&self, txn: &mut pb::TxnResponse) {
        for response in &mut txn.responses {
            match &mut response.response {
                Some(response_op::Response::ResponseRange(range)) => self.kvs(&mut range.kvs),
                Some(response_op::Response::ResponsePut(put)) => self.kvs(put.prev_kv.as_mut_slice()),
                Some(response_op::Response::ResponseDeleteRange(delete)) => self.kvs(&mut delete.prev_kvs),
                Some(response_op::Response::ResponseTxn(txn)) => self.txn(txn),
                None => {}
            }
        }
    }

    fn members(&self, members: &mut [pb::Member]) {
        for member in members.iter_mut() {
            member.id = self.member(member.id);
            for url in member.client_ur_ls.iter_mut().chain(&mut member.peer_ur_ls) {
                for (at, (client, peer)) in self.hosts.iter().enumerate() {
                    *url = url.replace(client, &format!("client-{at}")).replace(peer, &format!("peer-{at}"));
                }
            }
        }
        members.sort_by_key(|member| member.id); // their order is that of the real IDs
    }

    fn status(&self, status: &mut pb::StatusResponse) {
        status.leader = u64::from(self.members.contains(&status.leader)); // two clusters may elect different ones
        for error in &mut status.errors {
            *error = error.replace("  ", " "); // builds of etcd differ in their blanks
        }
        status.raft_index = 0;
        status.raft_applied_index = 0;
        status.raft_term = status.raft_term.min(1);
        status.db_size = status.db_size.min(0); // sizes are what they are, but never negative
        status.db_size_in_use = status.db_size_in_use.min(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_that_has_passed_may_be_missing_of_a_lease() {
        let names = Names::of(Vec::new());
        let masked = |granted_ttl, ttl| {
            let mut left = pb::LeaseTimeToLiveResponse { granted_ttl, ttl, ..Default::default() };
            names.remaining(&mut left);
            left.ttl
        };
        assert_eq!((masked(900, 900), masked(900, 899)), (900, 900));
        assert_eq!(masked(900, 500), 500, "400 seconds in no time");
        assert_eq!(masked(900, 901), 901, "more than was granted");
        assert_eq!(masked(0, -1), -1, "no such lease");
    }
}
