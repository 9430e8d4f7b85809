//! What happened in a run, for people: what members, clients, networks and the nemesis did, each at its time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::heap::{MICRO, MILLI, Nanos, SECOND};

/// Everything worth telling of a run, in order.
#[derive(Clone, Debug, Default)]
pub struct Chronicle {
    /// What happened.
    pub moments: Vec<Moment>,
    /// Messages are told too: most of what happens.
    pub with_frames: bool,
    /// What each member said of itself last, and when.
    statuses: BTreeMap<usize, Moment>,
}

/// One thing and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at: Nanos,
    /// What.
    pub what: Happened,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Happened {
    /// The nemesis struck these members (a bit each); it lasts until then.
    Fault { text: String, members: u64, until: Nanos },
    /// A member's process started.
    Started { member: usize, text: String },
    /// A member's process ended.
    Died { member: usize, text: String },
    /// A member says of itself.
    Status { member: usize, role: &'static str, standing: &'static str, term: u64, commit: u64 },
    /// A member sent a message; `None`: it is lost.
    Frame { from: usize, to: usize, arrives: Option<Nanos>, text: String },
    /// A client asked a member.
    Asked { client: usize, call: u64, member: usize, text: String },
    /// A client was answered, or gave up.
    Ended { client: usize, call: u64, text: String },
    /// Something a client of watches did or was told.
    Watch { client: usize, text: String },
}

/// A time in seconds, to the microsecond.
#[must_use]
pub fn seconds(at: Nanos) -> String {
    format!("{}.{:06}", at / SECOND, at % SECOND / MICRO)
}

impl Chronicle {
    /// Nothing yet.
    #[must_use]
    pub fn new(with_frames: bool) -> Self {
        Self { with_frames, ..Self::default() }
    }

    /// Takes a status down if it is new: a commit index every tenth of a second at most.
    pub fn status(&mut self, at: Nanos, member: usize, what: Happened) {
        let quiet = |moment: &Moment| match (&moment.what, &what) {
            (
                Happened::Status { role, standing, term, commit, .. },
                Happened::Status { role: new_role, standing: new_standing, term: new_term, commit: new_commit, .. },
            ) => {
                (role, standing, term) == (new_role, new_standing, new_term)
                    && (commit == new_commit || at < moment.at + 100 * MILLI)
            }
            _ => false,
        };
        if !self.statuses.get(&member).is_some_and(quiet) {
            let moment = Moment { at, what };
            self.statuses.insert(member, moment.clone());
            self.moments.push(moment);
        }
    }

    /// The run up to a time as a story, a line for each thing: messages are left out, and so are statuses but new leaders.
    #[must_use]
    pub fn story(&self, until: Nanos) -> Vec<String> {
        let mut lines = Vec::new();
        let mut leaders = Vec::new();
        for (n, Moment { at, what }) in self.moments.iter().enumerate().filter(|(_, moment)| moment.at <= until) {
            let (who, text) = match what {
                Happened::Fault { text, .. } => ("nemesis".into(), text.clone()),
                Happened::Started { member, text } => (format!("member {member}"), text.clone()),
                Happened::Died { member, text } => (format!("member {member}"), text.clone()),
                Happened::Status { member, role: "Leader", term, .. } if !leaders.contains(&(*member, *term)) => {
                    leaders.push((*member, *term));
                    (format!("member {member}"), format!("leads term {term}"))
                }
                Happened::Asked { client, call, member, text } => {
                    let end = self.moments[n..].iter().find_map(|moment| match &moment.what {
                        Happened::Ended { client: other, call: same, text } if other == client && same == call => {
                            Some(format!("{text} after {} ms", (moment.at - at) / MILLI))
                        }
                        _ => None,
                    });
                    let end = end.unwrap_or_else(|| "(no answer yet)".into());
                    (format!("client {client}"), format!("-> {member} {text}: {end}"))
                }
                Happened::Watch { client, text } => (format!("watcher {client}"), text.clone()),
                Happened::Status { .. } | Happened::Frame { .. } | Happened::Ended { .. } => continue,
            };
            let mut line = String::new();
            write!(line, "{:>12}  {who:<10} {text}", seconds(*at)).expect("writing to a string");
            lines.push(line);
        }
        lines
    }
}
