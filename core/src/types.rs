//! The units: each number with a meaning is a type of its own.

unit! {
    /// Raft term. 0 before the first election. (Raft §5.1)
    Term(u64)
    /// Position in the replicated log, from 1; 0 is "before the log". (Raft §5.3)
    LogIndex(u64)
    /// A member's ID, as in etcd's `Member.ID`; never 0.
    NodeId(u64)
    /// The cluster's ID, as in etcd's `ResponseHeader.cluster_id`.
    ClusterId(u64)
    /// One life of a member's disk: drawn at random when a member starts without (or doubting) its log.
    /// Only equality means anything.
    Incarnation(u64)
    /// Main revision of the whole store: +1 per write transaction; 1 for an empty store. (etcd)
    Revision(i64)
    /// A lease's ID. Never 0 in a stored lease; "no lease" is `Option::None`. (etcd)
    LeaseId(i64)
    /// A lease's time to live in whole seconds. (etcd)
    Ttl(i64)
    /// A watcher's ID within its stream. (etcd)
    WatchId(i64)
    /// One client watch stream, unique on this member for as long as it runs.
    StreamId(u64)
    /// The driver's name for a client request that waits for its response; unique while the process runs.
    RequestId(u64)
    /// A write handed to stable storage; writes become durable in this order.
    WriteId(u64)
    /// A piece of long work handed to the driver.
    JobId(u64)
    /// A folder of applied state: a snapshot is received into the next one and switched to atomically.
    Generation(u64)
    /// What this cluster's members have agreed to understand; no entry kind above it is proposed.
    FeatureLevel(u32)
}

impl Generation {
    /// The generation in which a member's new life begins: no other life of it has used the folder, so applied state
    /// that an earlier one left is never taken for this one's. Leaves room for as many snapshots as anybody receives.
    #[must_use]
    pub fn first(incarnation: Incarnation) -> Self {
        Self(incarnation.0 >> 1)
    }
}
