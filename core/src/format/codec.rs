//! bincode, bounded and versioned: the only place that knows it, so the only place to change should it be replaced.
//!
//! An encoded value is one version byte followed by bincode 2's standard layout: little endian; integers of more than
//! one byte as varints (signed ones zigzag first); enums by their variant's position; sequences and maps as a count
//! followed by their elements; options as 0 or 1 and the value. Values are canonical: equal values have equal bytes.
//! The layout of every stored type is frozen by the golden bytes in this file's tests.

use alloc::string::ToString;
use alloc::vec::Vec;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::enc::EncoderImpl;
use bincode::enc::write::{SizeWriter, Writer};
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::Blob;
use crate::blob::Source;

/// The first byte of everything encoded here. A build that must change the layout raises it and reads both.
pub const VERSION: u8 = 1;

/// The longest encoded value: the largest request (24 MiB of protobuf) takes up to two and a half times its bytes, and
/// something travels with it.
pub const MESSAGE_BYTES_MAX: usize = 72 << 20;

/// Why bytes are not an encoded value. Bytes that a peer sent are refused; bytes of our own disk are damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not even a version byte.
    #[error("no bytes to decode")]
    Empty,
    /// Written by a newer build (or no encoded value at all).
    #[error("encoding version {0} is not known to this build")]
    Version(u8),
    /// Longer than [`MESSAGE_BYTES_MAX`], or claims to contain more than its length could hold.
    #[error("encoded value is too large")]
    TooLarge,
    /// Some element is not what it should be, or the bytes end within it.
    #[error("malformed encoding: {0}")]
    Malformed(alloc::string::String),
    /// The value ended this many bytes before the input did.
    #[error("{0} bytes follow the encoded value")]
    Trailing(usize),
}

const LAYOUT: Configuration<LittleEndian, Varint> = config::standard();

/// The encoding of `value`.
///
/// # Panics
/// If it is longer than [`MESSAGE_BYTES_MAX`]: requests are validated, entries and chunks bounded, long before.
pub fn encode<T: Encode>(value: &T) -> Blob {
    let mut size = EncoderImpl::new(SizeWriter::default(), LAYOUT);
    value.encode(&mut size).expect("memory takes any bytes");
    // Not one too many: it may be kept for long.
    let mut bytes = Vec::with_capacity(1 + size.into_writer().bytes_written);
    encode_into(value, &mut bytes);
    Blob::from(bytes)
}

/// Appends the encoding of `value` to `buffer`.
///
/// # Panics
/// Like [`encode`].
pub fn encode_into<T: Encode>(value: &T, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.push(VERSION);
    bincode::encode_into_writer(value, Append(buffer), LAYOUT).expect("memory takes any bytes");
    let len = buffer.len() - start;
    assert!(len <= MESSAGE_BYTES_MAX, "encoded value of {len} bytes");
}

struct Append<'a>(&'a mut Vec<u8>);

impl Writer for Append<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The value encoded in exactly `bytes`. Its blobs are slices that keep `bytes` alive.
///
/// # Errors
/// See [`CodecError`]. Whatever the bytes say, decoding reserves no more memory than a fixed multiple of their
/// length, and touches only what elements that are really there need.
pub fn decode<T: Decode<Source>>(bytes: Bytes) -> Result<T, CodecError> {
    let source = Source::sharing(bytes.clone());
    decode_from(&bytes, source)
}

/// Like [`decode`], but the value owns copies of its blobs: for small parts of buffers that should be freed.
///
/// # Errors
/// See [`CodecError`].
pub fn decode_copying<T: Decode<Source>>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_from(bytes, Source::copying())
}

fn decode_from<T: Decode<Source>>(bytes: &[u8], source: Source) -> Result<T, CodecError> {
    let (version, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if *version != VERSION {
        return Err(CodecError::Version(*version));
    }
    // bincode counts what it reads in the sizes of Rust's types, and reserves a whole list's memory before its first
    // element: up to the limit, which is a constant. No honest value of ours counts for more than 72 times its
    // encoded length (see the test), so a limit of some hundred times the length is right at any length.
    match body.len() {
        0..=0x2000 => decode_body::<T, { 1 << 20 }>(body, source),
        0x2001..=0x8_0000 => decode_body::<T, { 64 << 20 }>(body, source),
        0x8_0001..MESSAGE_BYTES_MAX => decode_body::<T, { 8 << 30 }>(body, source),
        _ => Err(CodecError::TooLarge),
    }
}

fn decode_body<T: Decode<Source>, const LIMIT: usize>(body: &[u8], source: Source) -> Result<T, CodecError> {
    let layout: Configuration<LittleEndian, Varint, Limit<LIMIT>> = LAYOUT.with_limit();
    match bincode::decode_from_slice_with_context(body, layout, source) {
        Ok((value, read)) if read == body.len() => Ok(value),
        Ok((_, read)) => Err(CodecError::Trailing(body.len() - read)),
        Err(DecodeError::LimitExceeded) => Err(CodecError::TooLarge),
        Err(error) => Err(CodecError::Malformed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;

    use super::*;
    use crate::auth::{Allows, AuthCommand, AuthRevision, Author, Permission};
    use crate::command::{Command, Envelope, Origin, Outcome};
    use crate::entry::{Configuration, Entry, HardState, Identity, Payload, Record, Standing};
    use crate::error::Error;
    use crate::request::*;
    use crate::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `value` has always been, and must stay, these bytes.
    fn golden<T: Encode + Decode<Source> + PartialEq + core::fmt::Debug>(value: &T, bytes: &str) {
        let encoded = encode(value);
        assert_eq!(hex(&encoded), bytes.replace(' ', ""), "{value:?}");
        assert_eq!(&decode::<T>(encoded.0.clone()).unwrap(), value);
        assert_eq!(&decode_copying::<T>(&encoded).unwrap(), value);
        // Every proper prefix is refused, and so is anything longer.
        for len in 0..encoded.len() {
            assert!(decode::<T>(encoded.0.slice(..len)).is_err(), "{len} bytes of {value:?}");
        }
        let mut longer = encoded.to_vec();
        longer.push(0);
        assert_eq!(decode::<T>(longer.into()), Err(CodecError::Trailing(1)));
    }

    fn put(key: &'static str) -> PutRequest {
        PutRequest {
            key: key.into(),
            value: "v".into(),
            lease: Some(LeaseId(7)),
            prev_kv: true,
            ignore_value: false,
            ignore_lease: false,
        }
    }

    fn envelope(command: Command) -> Envelope {
        let origin = Origin { member: NodeId(2), incarnation: Incarnation(u64::MAX), sequence: 300 };
        Envelope { origin, command, author: Author::Nobody }
    }

    fn configuration() -> Configuration {
        Configuration {
            voters: BTreeMap::from([(NodeId(1), Incarnation(9)), (NodeId(2), Incarnation(8))]),
            outgoing: BTreeMap::new(),
            learners: BTreeMap::from([(NodeId(3), Incarnation(1 << 40))]),
        }
    }

    const ORIGIN: &str = "01 02 fdffffffffffffffff fb2c01";

    #[test]
    fn commands_keep_their_bytes() {
        let cases: Vec<(Command, &str)> = vec![
            (Command::Put(put("k")), "00 016b 0176 010e 01 00 00"),
            (
                Command::DeleteRange(DeleteRangeRequest {
                    range: KeyRange::Bounded { start: "a".into(), end: "b".into() },
                    prev_kv: false,
                }),
                "01 01 0161 0162 00",
            ),
            (
                Command::Txn(TxnRequest {
                    compare: vec![Compare {
                        range: KeyRange::Key("k".into()),
                        result: CompareResult::NotEqual,
                        target: CompareTarget::Value("x".into()),
                    }],
                    success: vec![
                        RequestOp::Range(RangeRequest::new(KeyRange::From("q".into()))),
                        RequestOp::Txn(TxnRequest::default()),
                    ],
                    failure: vec![RequestOp::Put(put("k"))],
                }),
                "02 01 00016b 03 030178 02 00 020171 00 00 00 00 00 00 00 00 00 00 00 03 00 00 00
                 01 01 016b 0176 010e 01 00 00",
            ),
            (Command::Compact { revision: Revision(5) }, "03 0a"),
            (Command::LeaseGrant(Lease { id: LeaseId(-1), ttl: Ttl(60) }), "04 01 78"),
            (Command::LeaseRevoke(LeaseId(125)), "05 fa"),
            (Command::LeaseExpire(vec![LeaseId(1), LeaseId(2)]), "06 02 02 04"),
            (Command::LeaseCheckpoint(vec![(LeaseId(1), Some(Ttl(3))), (LeaseId(2), None)]), "07 02 02 01 06 04 00"),
            (
                Command::Publish(Member {
                    id: NodeId(1),
                    name: "n1".into(),
                    peer_urls: vec!["p".into()],
                    client_urls: vec![],
                    is_learner: false,
                }),
                "08 01 026e31 01 0170 00 00",
            ),
            (Command::RaiseFeatureLevel(FeatureLevel(1)), "09 01"),
            (Command::RaiseAlarm(Alarm { kind: AlarmKind::NoSpace, member: NodeId(7) }), "0a 00 07"),
            (Command::Downgrade(Some("3.6.0".into())), "0c 01 05 332e362e30"),
            (Command::Downgrade(None), "0c 00"),
            (Command::ClearAlarm(Alarm { kind: AlarmKind::Fenced(Incarnation(9)), member: NodeId(7) }), "0b 02 09 07"),
        ];
        for (command, bytes) in cases {
            golden(&envelope(command), &format!("{ORIGIN}{}00", bytes.replace(['\n', ' '], "")));
        }
        let by = |author| Envelope { author, ..envelope(Command::LeaseRevoke(LeaseId(1))) };
        golden(&by(Author::Member), &format!("{ORIGIN}0502 01"));
        let user = Author::User { name: "u".into(), revision: AuthRevision(300) };
        golden(&by(user), &format!("{ORIGIN}0502 02 0175 fb2c01"));
    }

    #[test]
    fn commands_about_users_keep_their_bytes() {
        let (name, role) = (|| String::from("u"), || String::from("r"));
        let permission = Permission { allows: Allows::ReadWrite, key: "a".into(), range_end: "b".into() };
        let unknown = Permission { allows: Allows::Unknown(3), ..permission.clone() };
        let cases = [
            (AuthCommand::Enable, "00"),
            (AuthCommand::Disable, "01"),
            (
                AuthCommand::UserAdd { name: name(), password: Some("h".into()), no_password: false },
                "02 0175 01 0168 00",
            ),
            (AuthCommand::UserAdd { name: name(), password: None, no_password: true }, "02 0175 00 01"),
            (AuthCommand::UserDelete(name()), "03 0175"),
            (AuthCommand::UserChangePassword { name: name(), password: Some("h".into()) }, "04 0175 01 0168"),
            (AuthCommand::UserGrantRole { name: name(), role: role() }, "05 0175 0172"),
            (AuthCommand::UserRevokeRole { name: name(), role: role() }, "06 0175 0172"),
            (AuthCommand::RoleAdd(role()), "07 0172"),
            (AuthCommand::RoleDelete(role()), "08 0172"),
            (
                AuthCommand::RoleGrantPermission { role: role(), permission: Some(permission) },
                "09 0172 01 02 0161 0162",
            ),
            (AuthCommand::RoleGrantPermission { role: role(), permission: Some(unknown) }, "09 0172 01 0306 0161 0162"),
            (AuthCommand::RoleGrantPermission { role: role(), permission: None }, "09 0172 00"),
            (
                AuthCommand::RoleRevokePermission { role: role(), key: "a".into(), range_end: Blob::EMPTY },
                "0a 0172 0161 00",
            ),
            (
                AuthCommand::OpenSession { name: name(), revision: AuthRevision(2), secret: "s".into() },
                "0b 0175 02 0173",
            ),
        ];
        for (command, bytes) in cases {
            golden(&envelope(Command::Auth(command)), &format!("{ORIGIN}0d{bytes}00"));
        }
        golden(&Outcome::SessionOpened(LogIndex(300)), "01 08 fb2c01");
    }

    #[test]
    fn log_records_keep_their_bytes() {
        let config = "02 01 09 02 08 00 01 03 fd0000000000010000";
        golden(&configuration(), &format!("01 {config}"));
        golden(
            &Record::Identity(Identity {
                cluster: ClusterId(3),
                member: NodeId(2),
                incarnation: Incarnation(1),
                standing: Standing::Trusted,
            }),
            "01 00 03 02 01 02",
        );
        let hard_state = HardState { term: Term(4), vote: Some(NodeId(2)), commit: LogIndex(250) };
        golden(&Record::HardState(hard_state), "01 01 04 01 02 fa");
        for (payload, bytes) in [
            (Payload::Empty, "00".into()),
            (Payload::Command("cmd".into()), "01 03 636d64".into()),
            (Payload::Config(configuration()), format!("02 {config}")),
        ] {
            let entry = Entry { term: Term(4), index: LogIndex(251), payload };
            golden(&entry, &format!("01 04 fbfb00 {bytes}"));
            golden(&Record::Entry(entry), &format!("01 02 04 fbfb00 {bytes}"));
        }
        let (index, term) = (LogIndex(10), Term(4));
        golden(&Record::Compact { index, term, config: configuration() }, &format!("01 03 0a 04 {config}"));
        golden(
            &Record::Snapshot { index, term, config: configuration(), generation: Generation(2) },
            &format!("01 04 0a 04 {config} 02"),
        );
    }

    #[test]
    fn answers_keep_their_bytes() {
        let kv = KeyValue {
            key: "k".into(),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            version: 2,
            value: "v".into(),
            lease: None,
        };
        golden(
            &Outcome::Put(PutResult { revision: Revision(3), prev_kv: Some(kv) }),
            "01 00 06 01 016b 04 06 04 0176 00",
        );
        golden(
            &Outcome::Txn(TxnResult {
                revision: Revision(3),
                succeeded: true,
                responses: vec![ResponseOp::Range(RangeResult {
                    revision: Revision(3),
                    kvs: vec![],
                    more: false,
                    count: 0,
                })],
            }),
            "01 02 06 01 01 00 06 00 00 00",
        );
        golden(&Err::<Outcome, _>(Error::Compacted { oldest: Revision(4) }), "01 01 07 08");
    }

    #[test]
    fn decoded_values_are_slices_of_the_input() {
        let encoded = encode(&Blob::from(vec![7; 100]));
        let decoded: Blob = decode(encoded.0.clone()).unwrap();
        assert_eq!(decoded.as_ptr(), encoded[2..].as_ptr());
        let copied: Blob = decode_copying(&encoded).unwrap();
        assert_ne!(copied.as_ptr(), encoded[2..].as_ptr());
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        assert_eq!(decode::<Record>(Bytes::from_static(&[2, 0])), Err(CodecError::Version(2)));
        assert_eq!(decode::<Record>(Bytes::new()), Err(CodecError::Empty));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for len in [100_u64, 10_000, 1 << 20, 1 << 33, u64::MAX] {
            let mut bytes = encode(&len).to_vec(); // as the count of a list, the length of a blob, the size of a map
            assert!(decode::<Vec<RequestOp>>(bytes.clone().into()).is_err());
            assert!(decode::<Blob>(bytes.clone().into()).is_err());
            assert!(decode::<Configuration>(bytes.clone().into()).is_err());
            bytes.resize(60, 0);
            assert!(decode::<Vec<RequestOp>>(bytes.into()).is_err());
        }
        assert_eq!(decode::<Blob>(vec![VERSION; MESSAGE_BYTES_MAX + 2].into()), Err(CodecError::TooLarge));
    }

    #[test]
    fn hostile_nesting_is_refused_before_the_stack_ends() {
        let mut deep = vec![VERSION];
        deep.extend([0, 1, 3].repeat(1_000_000)); // a txn whose success list is one txn, whose ...
        assert!(matches!(decode::<TxnRequest>(deep.into()), Err(CodecError::Malformed(_))));

        let mut txn = TxnRequest::default();
        for _ in 1..crate::blob::NESTING_MAX {
            txn = TxnRequest { success: vec![RequestOp::Txn(txn)], ..TxnRequest::default() };
        }
        assert_eq!(decode::<TxnRequest>(encode(&txn).0).unwrap(), txn);
        let txn = TxnRequest { success: vec![RequestOp::Txn(txn)], ..TxnRequest::default() };
        assert!(decode::<TxnRequest>(encode(&txn).0).is_err());
    }

    /// What a member proposed, every member must be able to decode: the bound on memory never refuses honest values.
    #[test]
    fn the_densest_values_decode_at_every_length() {
        for count in [1, 100, 2_000, 2_100, 130_000, 140_000, 1_000_000] {
            let txn =
                TxnRequest { success: vec![RequestOp::Txn(TxnRequest::default()); count], ..TxnRequest::default() };
            assert!(decode::<TxnRequest>(encode(&txn).0).is_ok(), "{count} empty txns");
            let deletes = DeleteRangeRequest { range: KeyRange::Key(Blob::EMPTY), prev_kv: false };
            let txn = TxnRequest { success: vec![RequestOp::DeleteRange(deletes); count], ..TxnRequest::default() };
            assert!(decode::<TxnRequest>(encode(&txn).0).is_ok(), "{count} empty deletes");
            assert!(decode::<Vec<LeaseId>>(encode(&vec![LeaseId(1); count]).0).is_ok(), "{count} leases");
            let entry = Entry { term: Term(1), index: LogIndex(1), payload: Payload::Empty };
            assert!(decode::<Vec<Entry>>(encode(&vec![entry; count]).0).is_ok(), "{count} entries");
            let strings = vec![String::new(); count];
            assert!(decode::<Vec<String>>(encode(&strings).0).is_ok(), "{count} empty strings");
        }
    }
}
