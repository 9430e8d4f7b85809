//! What clients ask of the store and what it answers, well-formed by type: sentinels of the wire are decoded before.

use alloc::vec::Vec;

use bincode::de::Decoder;
use bincode::error::DecodeError;
use bincode::{Decode, Encode};

use crate::blob::{Source, nested};
use crate::{Blob, Incarnation, LeaseId, NodeId, Revision, Ttl};

/// The keys a request speaks of. (etcd: key and range_end)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub enum KeyRange {
    /// Exactly this key.
    Key(Blob),
    /// Every key `>= start` and `< end`; empty if `end <= start`.
    Bounded {
        /// The first key.
        start: Blob,
        /// The first key no longer in the range.
        end: Blob,
    },
    /// Every key `>= start`.
    From(Blob),
}

impl KeyRange {
    /// The first key the range may contain.
    #[must_use]
    pub fn start(&self) -> &Blob {
        match self {
            Self::Key(start) | Self::Bounded { start, .. } | Self::From(start) => start,
        }
    }

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => &only[..] == key,
            Self::Bounded { start, end } => &start[..] <= key && key < &end[..],
            Self::From(start) => &start[..] <= key,
        }
    }
}

/// One key with its value and counters. (etcd: mvccpb.KeyValue)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct KeyValue {
    /// The key.
    pub key: Blob,
    /// Main revision of the put that created the current generation.
    pub create_revision: Revision,
    /// Main revision of the last change.
    pub mod_revision: Revision,
    /// 1 on create, +1 per put, restarts after a delete.
    pub version: i64,
    /// The value.
    pub value: Blob,
    /// The lease the last put attached.
    pub lease: Option<LeaseId>,
}

/// What a range is sorted by. (etcd: SortTarget)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

/// In which direction a range is sorted. (etcd: SortOrder)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub enum SortOrder {
    #[default]
    None,
    Ascend,
    Descend,
}

/// Reads keys. (etcd: RangeRequest; semantics.md section 3)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct RangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// At most this many; 0 is all.
    pub limit: u64,
    /// As of this revision; `None` is the newest. Inside a txn it may be negative, which is always compacted.
    pub revision: Option<Revision>,
    /// Sort direction.
    pub sort_order: SortOrder,
    /// Sort key.
    pub sort_target: SortTarget,
    /// Answer from this member's state without asking a quorum.
    pub serializable: bool,
    /// Leave values empty.
    pub keys_only: bool,
    /// Leave out the keys altogether.
    pub count_only: bool,
    /// Inclusive bounds; 0 is off.
    pub min_mod_revision: Revision,
    /// Inclusive bound; 0 is off.
    pub max_mod_revision: Revision,
    /// Inclusive bound; 0 is off.
    pub min_create_revision: Revision,
    /// Inclusive bound; 0 is off.
    pub max_create_revision: Revision,
}

impl RangeRequest {
    /// A linearizable read of the newest state of `range`, no option set.
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            limit: 0,
            revision: None,
            sort_order: SortOrder::None,
            sort_target: SortTarget::Key,
            serializable: false,
            keys_only: false,
            count_only: false,
            min_mod_revision: Revision(0),
            max_mod_revision: Revision(0),
            min_create_revision: Revision(0),
            max_create_revision: Revision(0),
        }
    }

    /// Whether one of the bounds is on: keys in the range may be left out for when they were created or changed.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        let bounds = [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision];
        bounds != [Revision(0); 4]
    }
}

/// Writes one key. (etcd: PutRequest)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct PutRequest {
    /// The key; never empty.
    pub key: Blob,
    /// The value; empty with `ignore_value`.
    pub value: Blob,
    /// The lease to attach; `None` detaches, unless `ignore_lease`.
    pub lease: Option<LeaseId>,
    /// Answer with the key's previous state.
    pub prev_kv: bool,
    /// Keep the current value.
    pub ignore_value: bool,
    /// Keep the current lease.
    pub ignore_lease: bool,
}

/// Removes keys. (etcd: DeleteRangeRequest)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
pub struct DeleteRangeRequest {
    /// Which keys.
    pub range: KeyRange,
    /// Answer with the removed keys' state.
    pub prev_kv: bool,
}

/// How a compare relates the stored value to the given one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub enum CompareResult {
    Equal,
    Greater,
    Less,
    NotEqual,
    /// A number outside etcd's enum: always true, as etcd has it.
    Unknown,
}

/// What is compared, and with what. A key that does not exist has 0 everywhere and fails every value compare.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub enum CompareTarget {
    Version(i64),
    Create(Revision),
    Mod(Revision),
    Value(Blob),
    Lease(i64),
    /// A number outside etcd's enum: compares as equal, as etcd has it.
    Unknown,
}

/// One condition of a txn; over a range it must hold for every key. (etcd: Compare)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub struct Compare {
    pub range: KeyRange,
    pub result: CompareResult,
    pub target: CompareTarget,
}

/// One operation of a txn. (etcd: RequestOp)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub enum RequestOp {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
}

/// If all compares hold then `success` else `failure`. (etcd: TxnRequest; semantics.md section 5)
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode)]
#[allow(missing_docs)]
pub struct TxnRequest {
    pub compare: Vec<Compare>,
    pub success: Vec<RequestOp>,
    pub failure: Vec<RequestOp>,
}

impl TxnRequest {
    /// Whether it concerns no key at all: nothing is compared or done, however deep.
    #[must_use]
    pub fn is_void(&self) -> bool {
        let is_void = |op: &RequestOp| matches!(op, RequestOp::Txn(inner) if inner.is_void());
        self.compare.is_empty() && self.success.iter().chain(&self.failure).all(is_void)
    }
}

impl Decode<Source> for TxnRequest {
    fn decode<D: Decoder<Context = Source>>(decoder: &mut D) -> Result<Self, DecodeError> {
        nested(decoder, |d| Ok(Self { compare: Vec::decode(d)?, success: Vec::decode(d)?, failure: Vec::decode(d)? }))
    }
}

bincode::impl_borrow_decode_with_context!(TxnRequest, Source);

/// Answer to a range. `revision` is the store's at execution, also for reads of the past.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub struct RangeResult {
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// Keys were left out because of `limit`.
    pub more: bool,
    /// Keys in the range at that revision, whatever the limit and the filters.
    pub count: i64,
}

/// Answer to a put.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub struct PutResult {
    pub revision: Revision,
    pub prev_kv: Option<KeyValue>,
}

/// Answer to a delete.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub struct DeleteRangeResult {
    pub revision: Revision,
    pub deleted: i64,
    pub prev_kvs: Vec<KeyValue>,
}

/// One executed operation of a txn, in order of execution.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[bincode(decode_context = "Source")]
#[allow(missing_docs)]
pub enum ResponseOp {
    Range(RangeResult),
    Put(PutResult),
    DeleteRange(DeleteRangeResult),
    /// Its `revision` is not sent: etcd leaves a nested txn's header empty.
    Txn(TxnResult),
}

/// Answer to a txn.
#[derive(Clone, Debug, PartialEq, Eq, Encode)]
#[allow(missing_docs)]
pub struct TxnResult {
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<ResponseOp>,
}

impl Decode<Source> for TxnResult {
    fn decode<D: Decoder<Context = Source>>(decoder: &mut D) -> Result<Self, DecodeError> {
        nested(decoder, |d| {
            Ok(Self { revision: Revision::decode(d)?, succeeded: bool::decode(d)?, responses: Vec::decode(d)? })
        })
    }
}

bincode::impl_borrow_decode_with_context!(TxnResult, Source);

/// A member as clients see it. (etcd: Member)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub struct Member {
    pub id: NodeId,
    /// Empty until the member has started and published itself.
    pub name: alloc::string::String,
    pub peer_urls: Vec<alloc::string::String>,
    pub client_urls: Vec<alloc::string::String>,
    pub is_learner: bool,
}

/// What is wrong. (etcd: AlarmType)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum AlarmKind {
    /// The quota is used up: nothing more is written anywhere.
    NoSpace,
    /// Members' states differ and nobody can tell whose is right: nothing at all is changed any more.
    Corrupt,
    /// The state of this life of the member differs from the majority's, or its disk has rotted: it does not serve until
    /// it has been rebuilt, with a new life. The others go on. Clients see it as CORRUPT.
    Fenced(Incarnation),
}

/// Something is wrong with a member. (etcd: AlarmMember)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[allow(missing_docs)]
pub struct Alarm {
    pub kind: AlarmKind,
    /// As whoever raised it named it; 0 if nobody in particular.
    pub member: NodeId,
}

impl Alarm {
    /// The alarm that ends this life of a member.
    #[must_use]
    pub fn ending(member: NodeId, life: Incarnation) -> Self {
        Self { kind: AlarmKind::Fenced(life), member }
    }

    /// The member and the life of it that this alarm ends, if it ends one.
    #[must_use]
    pub fn ended(self) -> Option<(NodeId, Incarnation)> {
        match self.kind {
            AlarmKind::Fenced(life) => Some((self.member, life)),
            AlarmKind::NoSpace | AlarmKind::Corrupt => None,
        }
    }
}

/// A change of the membership. `strict`: refused where too few voters have started. (etcd: service Cluster)
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum MemberChange {
    /// These have founded the cluster: records for those that have none. Proposed by a leader, for itself.
    Found(Vec<Member>),
    /// (etcd: MemberAdd) Name and client URLs are empty until it publishes them.
    Add {
        /// The new member.
        member: Member,
        /// So many learners there may be. (etcd: --max-learners)
        learners_max: u32,
        /// Whether its risk is checked.
        strict: bool,
    },
    /// (etcd: MemberRemove)
    Remove {
        /// Who.
        id: NodeId,
        /// Whether its risk is checked.
        strict: bool,
    },
    /// (etcd: MemberUpdate)
    Update {
        /// Who.
        id: NodeId,
        /// From now on.
        peer_urls: Vec<alloc::string::String>,
    },
    /// (etcd: MemberPromote) That the learner is in sync was checked by the leader before this was proposed.
    Promote {
        /// Who.
        id: NodeId,
        /// Whether its risk is checked.
        strict: bool,
    },
}

impl MemberChange {
    /// Whether its risk is to be checked.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        match self {
            Self::Add { strict, .. } | Self::Remove { strict, .. } | Self::Promote { strict, .. } => *strict,
            Self::Found(_) | Self::Update { .. } => false,
        }
    }
}

/// A lease as asked for or as answered: ID and time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[allow(missing_docs)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl: Ttl,
}
