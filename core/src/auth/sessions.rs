//! Sessions that clients opened with a password: tokens that this member knows, and how long it still does.
//!
//! Every member opens and closes sessions by the log, and forgets them by its own clock when they are not used. None
//! outlives the process: a client whose token is not known any more authenticates again. (etcd: simple tokens)

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::time::Duration;

use crate::mutant::{self, Mutant};
use crate::store::SessionChange;
use crate::{Instant, LogIndex};

/// The sessions of one member.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// A session that is not used for so long is forgotten.
    ttl: Duration,
    /// Sessions opened by entries up to here are older than this process: their clients must authenticate again.
    since: LogIndex,
    open: BTreeMap<LogIndex, Session>,
    /// When to look for forgotten ones next.
    sweep: Instant,
}

#[derive(Clone, Debug)]
struct Session {
    secret: String,
    user: String,
    until: Instant,
}

/// Between two looks for sessions that are not used any more. (etcd)
const SWEEP: Duration = Duration::from_secs(1);

impl Sessions {
    /// No sessions; those opened by entries up to `since` will not be known.
    #[must_use]
    pub fn new(ttl: Duration, since: LogIndex) -> Self {
        Self { ttl, since, open: BTreeMap::new(), sweep: Instant::default() }
    }

    /// The token of the session that entry `index` opened.
    #[must_use]
    pub fn token(secret: &str, index: LogIndex) -> String {
        format!("{secret}.{index}")
    }

    /// The entry that opened the session of `token`; `None` if it is none of ours.
    #[must_use]
    pub fn opened_by(token: &str) -> Option<LogIndex> {
        let (_, index) = token.split_once('.')?;
        index.parse().ok().map(LogIndex)
    }

    /// Takes over what entries have done to sessions.
    pub fn apply(&mut self, now: Instant, changes: &[SessionChange]) {
        for change in changes {
            match change {
                SessionChange::Opened { index, secret, user } if *index > self.since => {
                    let session = Session { secret: secret.clone(), user: user.clone(), until: now + self.ttl };
                    self.open.insert(*index, session);
                }
                SessionChange::Opened { .. } => {}
                SessionChange::UserGone(user) => self.open.retain(|_, session| session.user != *user),
                SessionChange::AllGone => self.open.clear(),
            }
        }
        self.sweep(now);
    }

    /// The user of a session, which lives on for another TTL from `now`.
    pub fn user(&mut self, now: Instant, token: &str) -> Option<String> {
        let index = Self::opened_by(token)?;
        self.sweep(now);
        let session = self.open.get_mut(&index)?;
        if (session.until <= now && !mutant::is_on(Mutant::U14)) || Self::token(&session.secret, index) != token {
            return None;
        }
        session.until = now + self.ttl;
        Some(session.user.clone())
    }

    /// How many sessions are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn sweep(&mut self, now: Instant) {
        if now >= self.sweep && !mutant::is_on(Mutant::U14) {
            self.open.retain(|_, session| session.until > now);
            self.sweep = now + SWEEP;
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn opened(index: u64, user: &str) -> SessionChange {
        SessionChange::Opened { index: LogIndex(index), secret: "abc".into(), user: user.into() }
    }

    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(Duration::from_secs(300), LogIndex(10));
        sessions.apply(at(0), &[opened(11, "u"), opened(12, "v"), opened(13, "u")]);
        sessions
    }

    #[test]
    fn a_session_lives_as_long_as_it_is_used() {
        let mut sessions = sessions();
        assert_eq!(sessions.user(at(200), "abc.11").as_deref(), Some("u"));
        assert_eq!(sessions.user(at(499), "abc.11").as_deref(), Some("u"), "used 299 s ago");
        assert_eq!(sessions.user(at(499), "abc.12"), None, "never used");
        assert_eq!(sessions.user(at(799), "abc.11"), None, "used 300 s ago");
        assert!(sessions.is_empty(), "what is forgotten takes no memory");
    }

    #[test]
    fn only_the_whole_token_opens_a_session() {
        let mut sessions = sessions();
        for token in ["", "abc", "abc.", ".11", "abd.11", "abc.14", "abc.+11", "abc.011", "abc.11.", "abc.11 "] {
            assert_eq!(sessions.user(at(0), token), None, "{token:?}");
        }
    }

    #[test]
    fn a_user_that_goes_or_changes_takes_its_sessions_along() {
        let mut sessions = sessions();
        sessions.apply(at(1), &[SessionChange::UserGone("u".into())]);
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions.user(at(1), "abc.12").as_deref(), Some("v"));
        sessions.apply(at(1), &[SessionChange::AllGone]);
        assert!(sessions.is_empty());
    }

    /// Or a restart would prolong what had run out.
    #[test]
    fn sessions_from_before_the_start_are_not_known() {
        let mut sessions = Sessions::new(Duration::from_secs(300), LogIndex(10));
        sessions.apply(at(0), &[opened(9, "u"), opened(10, "u")]);
        assert!(sessions.is_empty());
    }
}
