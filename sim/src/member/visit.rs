//! A client's call inside of a member: through the gate and consensus to its reply, as `quorate_node::grpc` runs it.

use bytes::Bytes;
use prost::Message as _;
use quorate_api::etcdserverpb as pb;
use quorate_core::Instant;
use quorate_core::auth::Author;
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_node::service::gate::{self, Keeper, Login, Passage, Step};
use quorate_node::service::{self, Access};
use quorate_node::status::Status;

use super::{Actions, CallId, Due, Process};
use crate::call::{self, Rpc, Stage};
use crate::trace::Digest;
use crate::workload::Token;

/// A call under way.
pub(super) struct Visit {
    pub(super) call: CallId,
    token: Option<Token>,
    kind: Kind,
}

enum Kind {
    /// Beyond the quota, as far as the member knew: a read index confirms what it knows.
    Weighed {
        rpc: Rpc,
        request: Bytes,
    },
    Call {
        passage: Passage,
        stage: Box<dyn Stage>,
    },
    Login {
        login: Login,
        password: String,
        is_opening: bool,
    },
}

/// What a part of a call came to.
enum Part {
    /// Consensus is asked, and the call goes on.
    Ask(Request),
    /// Nothing is asked; the rest runs on a task of its own.
    Rest,
    /// The answer.
    Done(Result<Bytes, Status>),
}

/// A caller at the gate of a member, at the member's time.
pub(super) struct Desk<'a> {
    pub(super) process: &'a Process,
    pub(super) token: Option<&'a Token>,
    pub(super) access: Access<'a>,
    pub(super) now: Instant,
}

impl Keeper for Desk<'_> {
    fn author(&self) -> Result<Author, Error> {
        self.process.author(self.token, self.now)
    }

    fn permit(&self, ask: Option<&Request>) -> Result<Author, Error> {
        let author = self.author()?;
        service::permit(&author, ask, self.access, &self.process.published.view)?;
        Ok(author)
    }
}

impl Process {
    /// A client's request arrived.
    pub fn call(
        &mut self,
        now: Instant,
        call: CallId,
        rpc: Rpc,
        token: Option<Token>,
        request: Bytes,
        actions: &mut Actions,
    ) {
        let (visit, part) = match self.begin(now, call, rpc, token, request, false) {
            Ok(begun) => begun,
            Err(status) => return actions.answers.push((call, Err(status))),
        };
        match part {
            Part::Ask(request) => self.wait(visit, request),
            Part::Rest => actions.due.push(Due { visit, answer: None }),
            Part::Done(answer) => actions.answers.push((call, answer)),
        }
    }

    /// Runs the next part of a call on the state published by now; gives the answer, if that was all.
    pub fn finish(&mut self, now: Instant, due: Due) -> Option<(CallId, Result<Bytes, Status>)> {
        let Due { mut visit, answer } = due;
        let answer = answer.map(|answer| answer.map_err(Status::from));
        let call = visit.call;
        let token = visit.token.clone();
        let part = match visit.kind {
            Kind::Weighed { rpc, request } => {
                let answer = answer.expect("a read index was asked for");
                match answer.and_then(|_| self.begin(now, call, rpc, token, request, true)) {
                    Err(status) => Part::Done(Err(status)),
                    Ok((visit, Part::Ask(request))) => {
                        self.wait(visit, request);
                        return None;
                    }
                    Ok((visit, Part::Rest)) => return self.finish(now, Due { visit, answer: None }),
                    Ok((_, done)) => done,
                }
            }
            Kind::Call { mut passage, stage } => {
                let desk = Desk { process: self, token: token.as_ref(), access: stage.access(), now };
                let step = match answer {
                    Some(answer) => passage.answered(answer, &desk).map(|step| seal(&mut passage, &*stage, step)),
                    None => Ok(Step::Through(None)),
                };
                match step {
                    Err(status) => Part::Done(Err(stage.refusal().unwrap_or(status))),
                    Ok(Step::Through(answer)) => Part::Done(self.reply(now, token.as_ref(), stage, answer)),
                    Ok(Step::Ask(request)) => {
                        visit.kind = Kind::Call { passage, stage };
                        self.wait(visit, request);
                        return None;
                    }
                    Ok(Step::Hash) => unreachable!("sealed at once"),
                }
            }
            Kind::Login { mut login, password, is_opening } => {
                let answer = answer.expect("a login always asks");
                match self.go_on(&mut login, &password, is_opening, answer) {
                    Part::Ask(request) => {
                        let is_opening = request != Request::ReadIndex;
                        visit.kind = Kind::Login { login, password, is_opening };
                        self.wait(visit, request);
                        return None;
                    }
                    other => other,
                }
            }
        };
        match part {
            Part::Done(answer) => Some((call, answer)),
            Part::Ask(_) | Part::Rest => unreachable!("waited for above"),
        }
    }

    /// `is_weighed`: a read index has confirmed what this member knows of the quota.
    fn begin(
        &mut self,
        now: Instant,
        call: CallId,
        rpc: Rpc,
        token: Option<Token>,
        request: Bytes,
        is_weighed: bool,
    ) -> Result<(Visit, Part), Status> {
        if rpc == Rpc::Authenticate {
            let pb::AuthenticateRequest { name, password } = call::decode(request)?;
            let kind = Kind::Login { login: Login::new(name), password, is_opening: false };
            return Ok((Visit { call, token, kind }, Part::Ask(Request::ReadIndex)));
        }
        if !is_weighed && call::is_beyond_quota(rpc, &request, &self.local()) {
            return Ok((Visit { call, token, kind: Kind::Weighed { rpc, request } }, Part::Ask(Request::ReadIndex)));
        }
        let (ask, stage) = call::start(rpc, request, &self.local())?;
        let mut passage = Passage::new(ask, token.is_none(), stage.secret().is_some());
        let desk = Desk { process: self, token: token.as_ref(), access: stage.access(), now };
        let step = passage.start(&desk);
        let part = match seal(&mut passage, &*stage, step) {
            Step::Ask(request) => Part::Ask(request),
            Step::Through(_) | Step::Hash => Part::Rest,
        };
        Ok((Visit { call, token, kind: Kind::Call { passage, stage } }, part))
    }

    fn wait(&mut self, visit: Visit, request: Request) {
        let id = self.ask(request);
        self.calls.insert(id, visit);
    }

    /// On whose behalf the owner of `token` asks.
    pub(super) fn author(&self, token: Option<&Token>, now: Instant) -> Result<Author, Error> {
        token.map_or(Ok(Author::Nobody), |token| gate::recognise(token, &self.published, now))
    }

    fn reply(
        &mut self,
        now: Instant,
        token: Option<&Token>,
        stage: Box<dyn Stage>,
        answer: Option<Response>,
    ) -> Result<Bytes, Status> {
        if stage.defragments() {
            self.defragment();
        }
        let author = if stage.decides_late() { self.author(token, now)? } else { Author::Nobody };
        stage.finish(answer, &author, &self.local())
    }

    fn go_on(&mut self, login: &mut Login, password: &str, is_opening: bool, answer: Result<Response, Status>) -> Part {
        if is_opening {
            return match login.opened(answer) {
                Ok(None) => Part::Ask(Request::ReadIndex),
                Ok(Some(token)) => {
                    let header = Some(self.local().header_now());
                    Part::Done(Ok(pb::AuthenticateResponse { header, token }.encode_to_vec().into()))
                }
                Err(status) => Part::Done(Err(status)),
            };
        }
        let hash = answer.and_then(|_| Ok(login.challenge(&self.local())?));
        match hash {
            Ok(known) if known == hash_of(password) => {
                let secret = format!("s{:016x}", self.secrets.next_u64());
                Part::Ask(login.open(secret))
            }
            Ok(_) => Part::Done(Err(Error::AuthFailed.into())),
            Err(status) => Part::Done(Err(status)),
        }
    }
}

fn seal(passage: &mut Passage, stage: &dyn Stage, step: Step) -> Step {
    match step {
        Step::Hash => passage.hashed(hash_of(stage.secret().unwrap_or_default())),
        other => other,
    }
}

/// Stands for bcrypt, which is slow on purpose; `node/src/auth.rs` has tests of it.
#[must_use]
pub(crate) fn hash_of(password: &str) -> String {
    let mut digest = Digest::default();
    digest.bytes(password.as_bytes());
    format!("simulated${:016x}", digest.get())
}
