//! The gate that every call of a client passes, as a machine: who asks, may they, and on whose behalf is consensus asked?
//!
//! A command is decided by the state it changes, when it is applied; the look before is there to spare the log what would
//! be refused. Everything else is decided by the state that the answer is made from. A refusal may come from a state
//! that is behind, so it is given only after a read index has confirmed it.

use quorate_core::auth::{AuthRevision, Author, Sessions};
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::mutant::{self, Mutant};
use quorate_core::replica::{Request, Response};
use quorate_core::{Instant, LogIndex};

use super::{Local, admit, auth, mismatch};
use crate::applier::Published;
use crate::status::Status;

/// How often something is asked again because users or roles changed meanwhile.
const ATTEMPTS: usize = 10;

/// Looks at the caller with the state that is published by then.
pub trait Keeper {
    /// On whose behalf the caller asks.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`].
    fn author(&self) -> Result<Author, Error>;

    /// Likewise, if they may have what the call says they need; `ask` is what is asked of consensus.
    ///
    /// # Errors
    /// Those of [`quorate_core::store::View::check`], and [`Error::InvalidAuthToken`].
    fn permit(&self, ask: Option<&Request>) -> Result<Author, Error>;
}

/// What to do for a call next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask consensus this, then [`Passage::answered`].
    Ask(Request),
    /// Hash the password in the request, then [`Passage::hashed`].
    Hash,
    /// Make the reply of consensus' answer, if it was asked anything for the call.
    Through(Option<Response>),
}

/// A call on its way through the gate.
#[derive(Debug)]
pub struct Passage {
    ask: Option<Request>,
    /// The caller does not say who it is: nothing can be found out by looking again.
    is_nobody: bool,
    /// The command lacks the hash of a password.
    seals: bool,
    author: Author,
    attempts: usize,
    /// A refusal waits for the read index that confirms it.
    confirming: bool,
    /// So does this one, of a command whose author may not be known here yet.
    refused: Option<Status>,
}

impl Passage {
    /// A call that asks consensus `ask`, of a caller who `is_nobody` or not. It `seals` a password in its command, or not.
    #[must_use]
    pub fn new(ask: Option<Request>, is_nobody: bool, seals: bool) -> Self {
        let (author, refused) = (Author::Nobody, None);
        Self { ask, is_nobody, seals, author, attempts: 1, confirming: false, refused }
    }

    /// The first step.
    pub fn start(&mut self, keeper: &impl Keeper) -> Step {
        if self.ask == Some(Request::ReadIndex) {
            return Step::Ask(Request::ReadIndex); // Decided by the state that is read.
        }
        match keeper.permit(self.ask.as_ref()) {
            Ok(author) => self.enter(author),
            // What was granted, or the session that was opened, may not be known here yet.
            Err(_) => {
                self.confirming = true;
                Step::Ask(Request::ReadIndex)
            }
        }
    }

    /// Consensus answered.
    ///
    /// A command whose author was recognised by a state that was behind is refused without effect when it is applied. Once
    /// this member knows that state, it asks again if its answer to who asks is another one then.
    ///
    /// # Errors
    /// The call is refused. Where nothing confirms a refusal, why that is so.
    pub fn answered(&mut self, answer: Result<Response, Status>, keeper: &impl Keeper) -> Result<Step, Status> {
        if std::mem::take(&mut self.confirming) {
            answer?;
            let author = keeper.permit(self.ask.as_ref())?;
            return Ok(self.enter(author));
        }
        if let Some(refusal) = self.refused.take() {
            answer?;
            let now = keeper.author()?;
            // Nobody was asked who they are where it was recognised and nobody is now, only where it was applied.
            let is_open = now == Author::Nobody && refusal == Error::UserEmpty.into();
            return if is_open { Ok(self.ask_anew(now)) } else { self.ask_as(now).ok_or(refusal) };
        }
        let changed = |status: &Status| {
            [Error::UserEmpty, Error::AuthOldRevision].iter().any(|error| *status == error.clone().into())
        };
        if matches!(self.ask, Some(Request::Command(_)))
            && !self.is_nobody
            && self.attempts < if mutant::is_on(Mutant::U08) { 1 } else { ATTEMPTS }
            && answer.as_ref().is_err_and(changed)
        {
            if let Some(again) = self.ask_as(keeper.author()?) {
                return Ok(again);
            }
            self.refused = answer.err();
            return Ok(Step::Ask(Request::ReadIndex));
        }
        Ok(Step::Through(Some(answer?)))
    }

    /// Asks again if the caller is another one now.
    fn ask_as(&mut self, now: Author) -> Option<Step> {
        (now != self.author).then(|| self.ask_anew(now))
    }

    fn ask_anew(&mut self, now: Author) -> Step {
        self.attempts += 1;
        self.author = now;
        self.ask()
    }

    /// The password has this hash.
    pub fn hashed(&mut self, hash: String) -> Step {
        if let Some(Request::Command(Command::Auth(command))) = &mut self.ask {
            command.seal(hash);
        }
        self.ask()
    }

    fn enter(&mut self, author: Author) -> Step {
        self.author = author;
        if self.seals { Step::Hash } else { self.ask() }
    }

    fn ask(&mut self) -> Step {
        match &self.ask {
            Some(Request::Command(command)) if !self.is_nobody => {
                Step::Ask(Request::CommandBy(self.author.clone(), command.clone()))
            }
            Some(_) => Step::Ask(self.ask.take().expect("it is there")),
            None => Step::Through(None),
        }
    }
}

/// On whose behalf a caller with the token of a session asks, at the member's time `now`.
///
/// # Errors
/// [`Error::InvalidAuthToken`].
pub fn recognise<S>(token: &str, published: &Published<S>, now: Instant) -> Result<Author, Error> {
    let auth = published.view.auth();
    if !auth.is_enabled() {
        return Ok(Author::Nobody);
    }
    let mut sessions = published.sessions.lock().expect("no holder panics");
    let name = sessions.user(now, token).ok_or(Error::InvalidAuthToken)?;
    Ok(Author::User { name, revision: auth.revision() })
}

/// An `Authenticate` on its way: read index, [`Login::challenge`], password, and for a session [`Login::open`] and
/// [`Login::opened`]; from the start again if users or roles changed meanwhile.
#[derive(Debug)]
pub struct Login {
    name: String,
    revision: AuthRevision,
    secret: String,
    attempts: usize,
}

impl Login {
    /// A login of the user of this name.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, revision: AuthRevision(0), secret: String::new(), attempts: 0 }
    }

    /// The hash that the password must match, as of a state that a read index has just confirmed.
    ///
    /// # Errors
    /// Those of [`auth::challenge`] and of [`admit`].
    pub fn challenge(&mut self, local: &Local<'_>) -> Result<String, Error> {
        admit(false, local)?;
        let auth::Challenge { hash, revision } = auth::challenge(&self.name, local)?;
        self.revision = revision;
        Ok(hash)
    }

    /// As of which state of users and roles the password was compared.
    #[must_use]
    pub fn revision(&self) -> AuthRevision {
        self.revision
    }

    /// The password matched: what to ask of consensus for a session whose token contains `secret`.
    pub fn open(&mut self, secret: String) -> Request {
        self.secret = secret;
        auth::open_session(self.name.clone(), self.revision, self.secret.clone())
    }

    /// The token of the session; `None` if users or roles have changed since the challenge, and with them perhaps the
    /// password: start again.
    ///
    /// # Errors
    /// Consensus', and [`Error::AuthOldRevision`] once it happened too often.
    ///
    /// # Panics
    /// If `answer` is not one to a session.
    pub fn opened(&mut self, answer: Result<Response, Status>) -> Result<Option<String>, Status> {
        self.attempts += 1;
        match answer {
            Ok(Response::Outcome(Outcome::SessionOpened(index))) => Ok(Some(self.token(index))),
            Ok(other) => mismatch(Some(&other)),
            Err(status) if status == Error::AuthOldRevision.into() && self.attempts < ATTEMPTS => Ok(None),
            Err(status) => Err(status),
        }
    }

    fn token(&self, index: LogIndex) -> String {
        Sessions::token(&self.secret, index)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A member at which everybody may do everything.
    struct Member(Cell<Option<&'static str>>);

    impl Keeper for Member {
        fn author(&self) -> Result<Author, Error> {
            let user = |name: &str| Author::User { name: name.into(), revision: AuthRevision(1) };
            Ok(self.0.get().map_or(Author::Nobody, user))
        }

        fn permit(&self, _: Option<&Request>) -> Result<Author, Error> {
            self.author()
        }
    }

    fn asks(step: &Step) -> Option<&Author> {
        if let Step::Ask(Request::CommandBy(author, _)) = step { Some(author) } else { None }
    }

    #[test]
    fn what_was_refused_because_its_author_was_not_known_is_asked_again() {
        let member = Member(Cell::new(None));
        let command = || Some(Request::Command(Command::LeaseRevoke(quorate_core::LeaseId(1))));
        let refused = || Err(Error::UserEmpty.into());
        let readable = || Ok(Response::Readable);
        let mut passage = Passage::new(command(), false, false);
        assert_eq!(asks(&passage.start(&member)), Some(&Author::Nobody));
        assert_eq!(passage.answered(refused(), &member).unwrap(), Step::Ask(Request::ReadIndex));
        member.0.set(Some("u"));
        let again = passage.answered(readable(), &member).unwrap();
        assert_eq!(asks(&again), member.author().ok().as_ref());

        // Users were asked for who they are in between only: again it is nobody who asks, and nobody who is asked for.
        member.0.set(None);
        let mut passage = Passage::new(command(), false, false);
        passage.start(&member);
        passage.answered(refused(), &member).unwrap();
        assert_eq!(asks(&passage.answered(readable(), &member).unwrap()), Some(&Author::Nobody));
        for _ in 2..ATTEMPTS {
            passage.answered(refused(), &member).unwrap();
            passage.answered(readable(), &member).unwrap();
        }
        assert_eq!(passage.answered(refused(), &member), Err(Error::UserEmpty.into()), "not for ever");

        let mut passage = Passage::new(command(), true, false);
        passage.start(&member);
        assert_eq!(passage.answered(refused(), &member), Err(Error::UserEmpty.into()), "who shows no token");
    }
}
