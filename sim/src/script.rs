//! What clients do, as data: written down in one run, left out bit by bit, done again in others.
//!
//! A client that draws what it does next asks something else as soon as one answer is another. A script does not: every
//! request stands there with its time, its member and its bytes, and leaving one out changes none of the others.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::LeaseId;
use quorate_core::request::{Compare, CompareResult, CompareTarget, KeyRange, RangeRequest, RequestOp};
use quorate_jepsen::history::Op;

use crate::call::Rpc;
use crate::heap::{MICRO, Nanos};
use crate::wire;
use crate::workload::Token;
use crate::workload::badge::Badge;
use crate::workload::operator::Task;

/// One thing that a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// When, in whole microseconds; or as soon as the client's call before is over.
    pub at: Nanos,
    /// Who: a client of keys, or for all but [`What::Ask`] a client of watches.
    pub client: usize,
    /// What.
    pub what: What,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Sends a request.
    Ask {
        /// To whom.
        member: usize,
        /// How long it waits for the answer.
        patience: Nanos,
        /// As whom.
        shows: Shows,
        /// The method.
        rpc: Rpc,
        /// The request, encoded.
        bytes: Bytes,
    },
    /// Opens a stream of watches, instead of the one it may have: its watchers go on where they broke off.
    Watch {
        /// On whom.
        member: usize,
        /// Watchers that are new, each an encoded `WatchCreateRequest`.
        new: Vec<Bytes>,
    },
    /// Asks for progress on its stream.
    Progress,
}

/// What a client shows of itself with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing.
    Nothing,
    /// The token that it got last, if it has one.
    Own,
    /// This text for a token.
    Text(Token),
}

impl Shows {
    /// How `token` comes to be shown by who wears `badge`.
    #[must_use]
    pub fn of(token: Option<&Token>, badge: Option<&Badge>) -> Self {
        match token {
            None => Self::Nothing,
            Some(token) if badge.and_then(Badge::token) == Some(token) => Self::Own,
            Some(token) => Self::Text(token.clone()),
        }
    }

    /// The token that is shown.
    #[must_use]
    pub fn token(&self, badge: Option<&Badge>) -> Option<Token> {
        match self {
            Self::Nothing => None,
            Self::Own => badge.and_then(Badge::token).cloned(),
            Self::Text(token) => Some(token.clone()),
        }
    }
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Asked {
    /// An operation of the history, or a chore.
    Task(Task),
    /// The renewal of a lease.
    KeepAlive(LeaseId),
    /// What is left of a lease.
    TimeToLive(LeaseId),
}

/// The methods that scripts name.
const METHODS: [Rpc; 30] = [
    Rpc::Range,
    Rpc::Put,
    Rpc::DeleteRange,
    Rpc::Txn,
    Rpc::Compact,
    Rpc::LeaseGrant,
    Rpc::LeaseRevoke,
    Rpc::LeaseTimeToLive,
    Rpc::LeaseLeases,
    Rpc::LeaseKeepAlive,
    Rpc::Authenticate,
    Rpc::AuthStatus,
    Rpc::AuthEnable,
    Rpc::AuthDisable,
    Rpc::UserAdd,
    Rpc::UserDelete,
    Rpc::UserChangePassword,
    Rpc::UserGrantRole,
    Rpc::UserRevokeRole,
    Rpc::UserGet,
    Rpc::UserList,
    Rpc::RoleAdd,
    Rpc::RoleDelete,
    Rpc::RoleGrantPermission,
    Rpc::RoleRevokePermission,
    Rpc::RoleGet,
    Rpc::RoleList,
    Rpc::Alarm,
    Rpc::HashKv,
    Rpc::Defragment,
];

/// Whether a line of a schedule is one of a script.
#[must_use]
pub fn is_deed(line: &str) -> bool {
    matches!(line.split_whitespace().nth(1), Some("ask" | "watch" | "progress"))
}

impl Deed {
    /// The deed in words, for readers.
    #[must_use]
    pub fn story(&self) -> String {
        match &self.what {
            What::Ask { rpc, bytes, .. } => describe(*rpc, bytes),
            What::Watch { new, .. } if new.is_empty() => "watches again".into(),
            What::Watch { new, .. } => {
                let watchers: Vec<String> = new.iter().map(describe_watcher).collect();
                format!("watches {}", watchers.join(", "))
            }
            What::Progress => "asks for progress".into(),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, client, what } = self;
        write!(f, "{}us ", at / MICRO)?;
        match what {
            What::Ask { member, patience, shows, rpc, bytes } => {
                let patience = patience / MICRO;
                write!(f, "ask client={client} member={member} patience={patience}us ")?;
                match shows {
                    Shows::Nothing => {}
                    Shows::Own => write!(f, "token=own ")?,
                    Shows::Text(token) => write!(f, "token={} ", Hex(token.as_bytes()))?,
                }
                write!(f, "{rpc:?}={}", Hex(bytes))
            }
            What::Watch { member, new } => {
                write!(f, "watch client={client} member={member}")?;
                new.iter().try_for_each(|create| write!(f, " new={}", Hex(create)))
            }
            What::Progress => write!(f, "progress client={client}"),
        }
    }
}

impl FromStr for Deed {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let line = line.split_once('#').map_or(line, |(deed, _comment)| deed);
        let mut words = line.split_whitespace();
        let at = span(words.next().unwrap_or_default())?;
        let kind = words.next().unwrap_or_default();
        let (mut client, mut member, mut patience, mut request, mut new) = (None, None, None, None, Vec::new());
        let mut shows = None;
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| format!("{word} is no name=value"))?;
            let number = || value.parse::<usize>().map_err(|_| format!("{word} is not a number"));
            let twice = match name {
                "client" => client.replace(number()?).is_some(),
                "member" if kind != "progress" => member.replace(number()?).is_some(),
                "patience" if kind == "ask" => patience.replace(span(value)?).is_some(),
                "token" if kind == "ask" && value == "own" => shows.replace(Shows::Own).is_some(),
                "token" if kind == "ask" => {
                    let token = String::from_utf8(unhex(value)?.to_vec()).map_err(|_| format!("{value} is no text"))?;
                    shows.replace(Shows::Text(token.into())).is_some()
                }
                "new" if kind == "watch" => {
                    let create = unhex(value)?;
                    pb::WatchCreateRequest::decode(create.clone()).map_err(|error| format!("{word}: {error}"))?;
                    new.push(create);
                    false
                }
                _ => {
                    let method = METHODS.iter().find(|method| kind == "ask" && format!("{method:?}") == name);
                    let rpc = method.ok_or_else(|| format!("{kind} has no {name}="))?;
                    let bytes = unhex(value)?;
                    if task(*rpc, &bytes).is_none() {
                        return Err(format!("{value} is no request of {name}"));
                    }
                    request.replace((*rpc, bytes)).is_some()
                }
            };
            if twice {
                return Err(format!("{name}= twice"));
            }
        }
        let client = client.ok_or("no client=")?;
        let what = match kind {
            "ask" => {
                let (rpc, bytes) = request.ok_or("no request")?;
                let (member, patience) = (member.ok_or("no member=")?, patience.ok_or("no patience=")?);
                What::Ask { member, patience, shows: shows.unwrap_or(Shows::Nothing), rpc, bytes }
            }
            "watch" => What::Watch { member: member.ok_or("no member=")?, new },
            "progress" => What::Progress,
            other => return Err(format!("clients do not {other}")),
        };
        Ok(Self { at, client, what })
    }
}

/// What a request asks for; `None` if it is none that clients send.
#[must_use]
pub fn task(rpc: Rpc, bytes: &Bytes) -> Option<Asked> {
    Some(match rpc {
        Rpc::LeaseKeepAlive => Asked::KeepAlive(LeaseId(pb::LeaseKeepAliveRequest::decode(bytes.clone()).ok()?.id)),
        Rpc::LeaseTimeToLive => Asked::TimeToLive(LeaseId(pb::LeaseTimeToLiveRequest::decode(bytes.clone()).ok()?.id)),
        _ => match wire::operation(rpc, bytes) {
            Some(op) => Asked::Task(Task::Op(op)),
            None => Asked::Task(Task::Chore(wire::chore(rpc, bytes)?)),
        },
    })
}

fn span(text: &str) -> Result<Nanos, String> {
    let micros = text.strip_suffix("us").and_then(|digits| digits.parse::<Nanos>().ok());
    micros.and_then(|micros| micros.checked_mul(MICRO)).ok_or_else(|| format!("{text} is not a span in us"))
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn unhex(text: &str) -> Result<Bytes, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes()
        .chunks(2)
        .map(pair)
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
        .ok_or(format!("{text} is not hex"))
}

/// A request in the words of etcd's own client.
#[must_use]
pub fn describe(rpc: Rpc, bytes: &Bytes) -> String {
    let op = match task(rpc, bytes) {
        Some(Asked::Task(Task::Op(op))) => op,
        Some(Asked::Task(Task::Chore(chore))) => return format!("{chore:?}"),
        Some(Asked::KeepAlive(lease)) => return format!("lease keep-alive {}", lease.0),
        Some(Asked::TimeToLive(lease)) => return format!("lease timetolive {}", lease.0),
        None => return format!("{rpc:?}"),
    };
    match &op {
        Op::Put(put) => describe_op(&RequestOp::Put(put.clone())),
        Op::DeleteRange(delete) => describe_op(&RequestOp::DeleteRange(delete.clone())),
        Op::Range(range) => describe_op(&RequestOp::Range(range.clone())),
        Op::Txn(txn) => describe_op(&RequestOp::Txn(txn.clone())),
        Op::Compact(revision) => format!("compact {revision}"),
        Op::LeaseGrant { id: None, ttl } => format!("lease grant {ttl}"),
        Op::LeaseGrant { id: Some(id), ttl } => format!("lease grant {ttl} as {}", id.0),
        Op::LeaseRevoke(id) => format!("lease revoke {}", id.0),
    }
}

fn describe_op(op: &RequestOp) -> String {
    match op {
        RequestOp::Put(put) => {
            let lease = put.lease.map_or(String::new(), |lease| format!(" lease={}", lease.0));
            let keeps = [(put.ignore_value, " ignore-value"), (put.ignore_lease, " ignore-lease")];
            let keeps: String = keeps.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
            format!("put {} {}{lease}{keeps}", text(&put.key.0), text(&put.value.0))
        }
        RequestOp::DeleteRange(delete) => format!("del {}", describe_keys(&delete.range)),
        RequestOp::Range(range) => format!("get {}{}", describe_keys(&range.range), describe_range(range)),
        RequestOp::Txn(txn) => {
            let list = |ops: &[RequestOp]| ops.iter().map(describe_op).collect::<Vec<_>>().join("; ");
            let compares: Vec<String> = txn.compare.iter().map(describe_compare).collect();
            format!(
                "txn if {{{}}} then {{{}}} else {{{}}}",
                compares.join("; "),
                list(&txn.success),
                list(&txn.failure)
            )
        }
    }
}

fn describe_range(range: &RangeRequest) -> String {
    let mut said = String::new();
    let mut say = |on: bool, text: String| {
        if on {
            said.push(' ');
            said.push_str(&text);
        }
    };
    say(range.revision.is_some(), format!("rev={}", range.revision.map_or(0, |revision| revision.0)));
    say(range.limit > 0, format!("limit={}", range.limit));
    say(range.serializable, "serializable".into());
    say(range.keys_only, "keys-only".into());
    say(range.count_only, "count-only".into());
    said
}

fn describe_compare(compare: &Compare) -> String {
    let target = match &compare.target {
        CompareTarget::Version(version) => format!("version {version}"),
        CompareTarget::Create(revision) => format!("create {revision}"),
        CompareTarget::Mod(revision) => format!("mod {revision}"),
        CompareTarget::Value(value) => format!("value {}", text(&value.0)),
        CompareTarget::Lease(lease) => format!("lease {lease}"),
        CompareTarget::Unknown => "?".into(),
    };
    let relation = match compare.result {
        CompareResult::Equal => "=",
        CompareResult::Greater => ">",
        CompareResult::Less => "<",
        CompareResult::NotEqual => "!=",
        CompareResult::Unknown => "?",
    };
    format!("{} {relation} {target}", describe_keys(&compare.range))
}

fn describe_keys(range: &KeyRange) -> String {
    match range {
        KeyRange::Key(key) => text(&key.0),
        KeyRange::Bounded { start, end } => format!("[{}, {})", text(&start.0), text(&end.0)),
        KeyRange::From(start) => format!("[{}, ..)", text(&start.0)),
    }
}

fn describe_watcher(create: &Bytes) -> String {
    let Ok(create) = pb::WatchCreateRequest::decode(create.clone()) else { return "?".into() };
    let from = match create.start_revision {
        0 => "now".into(),
        revision => revision.to_string(),
    };
    format!("{} from {from}", describe_keys(&wire::keys_of(create.key, create.range_end)))
}

/// Keys and values as text; long ones in part.
fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(24)];
    let dots = if shown.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{dots}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::client::read_all;

    #[test]
    fn a_script_survives_being_printed_and_read() {
        let (rpc, bytes) = wire::encode(&read_all());
        let create = pb::WatchCreateRequest { key: "k".into(), start_revision: 7, ..Default::default() };
        let whats = [
            What::Ask { member: 2, patience: 5 * MICRO, shows: Shows::Own, rpc, bytes: bytes.clone() },
            What::Ask { member: 2, patience: 0, shows: Shows::Text("t.1".into()), rpc, bytes: bytes.clone() },
            What::Ask { member: 2, patience: 0, shows: Shows::Nothing, rpc, bytes },
            What::Watch { member: 1, new: Vec::new() },
            What::Watch { member: 1, new: vec![create.encode_to_vec().into(); 2] },
            What::Progress,
        ];
        for what in whats {
            let deed = Deed { at: 3 * MICRO, client: 4, what };
            let line = deed.to_string();
            assert!(is_deed(&line));
            assert_eq!(format!("{line} # {}", deed.story()).parse(), Ok(deed), "{line}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let wrong = [
            ("5us ask client=1 member=1 patience=1us", "no request"),
            ("5us ask client=1 member=1 patience=1us fry=00", "ask has no fry="),
            ("5us ask client=1 member=1 patience=1us Put=0", "0 is not hex"),
            ("5us ask client=1 member=1 patience=1us Put=ff", "ff is no request of Put"),
            ("5us watch client=1 client=1 member=2", "client= twice"),
            ("5us progress member=1", "progress has no member="),
            ("soon progress client=1", "soon is not a span in us"),
        ];
        for (line, because) in wrong {
            assert_eq!(line.parse::<Deed>(), Err(because.into()), "{line}");
        }
    }
}
