//! The gate that every call of a client passes: who asks, and may they?
//!
//! A command is decided by the state it changes, when it is applied; the look before is there to spare the log what would
//! be refused. Everything else is decided by the state that the answer is made from. A refusal may come from a state
//! that is behind, so it is given only after a read index has confirmed it.

use std::sync::{Arc, OnceLock};

use axum::http::Extensions;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::{AuthRevision, Author, Sessions};
use quorate_core::command::{Command, Outcome};
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::rows::Rows;
use tonic::metadata::MetadataMap;

use super::{Picture, Server};
use crate::auth::{self, Tokens};
use crate::service::{self, Access};
use crate::status::{Code, Status};

/// Who calls, as their connection and their metadata say; nothing of it is believed yet.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Sent as `token`, or as `authorization` with or without `Bearer `.
    token: Option<String>,
    /// Of the client's certificate, which was verified.
    common_name: Option<String>,
    /// Whom a signed token names: looked at once.
    signed: OnceLock<Option<(String, AuthRevision)>>,
}

/// The common name of a client's verified certificate, in a request's extensions.
#[derive(Clone, Debug)]
pub struct CommonName(pub String);

impl Caller {
    /// Whoever sent a request with this metadata and these extensions.
    #[must_use]
    pub fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let text = |name| metadata.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let bearer = |value: String| value.strip_prefix("Bearer ").map_or(value.clone(), str::to_owned);
        // The gateway's connection is the gateway's, whatever certificate it shows.
        let common_name = extensions.get::<CommonName>().filter(|_| !metadata.contains_key("grpcgateway-accept"));
        Self {
            token: text("token").or_else(|| text("authorization").map(bearer)),
            common_name: common_name.map(|name| name.0.clone()),
            signed: OnceLock::new(),
        }
    }

    /// Whoever sent `request`.
    #[must_use]
    pub fn from<T>(request: &tonic::Request<T>) -> Self {
        Self::of(request.metadata(), request.extensions())
    }

    fn is_nobody(&self) -> bool {
        self.token.is_none() && self.common_name.is_none()
    }
}

/// How often something is asked again because users or roles changed meanwhile.
const ATTEMPTS: usize = 10;

impl<S: Rows + Send + Sync + 'static> Server<S> {
    /// On whose behalf `caller` asks, as of `picture`.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`].
    pub(super) fn author(&self, caller: &Caller, picture: &Picture<S>) -> Result<Author, Error> {
        let auth = picture.published.view.auth();
        if !auth.is_enabled() {
            return Ok(Author::Nobody);
        }
        let name = match (&caller.token, &caller.common_name) {
            (Some(token), _) => match self.authenticator.tokens() {
                Tokens::Simple => {
                    let mut sessions = picture.published.sessions.lock().expect("no holder panics");
                    sessions.user(self.member.now(), token).ok_or(Error::InvalidAuthToken)?
                }
                Tokens::Jwt(jwt) => {
                    let signed = caller.signed.get_or_init(|| jwt.check(token)).clone();
                    let (name, revision) = signed.ok_or(Error::InvalidAuthToken)?;
                    return Ok(Author::User { name, revision });
                }
                Tokens::None => return Err(Error::InvalidAuthToken),
            },
            (None, Some(name)) => name.clone(),
            (None, None) => return Ok(Author::Nobody),
        };
        Ok(Author::User { name, revision: auth.revision() })
    }

    /// Refuses `caller` what it may not have, and what it asks of consensus for it.
    ///
    /// # Errors
    /// Those of [`quorate_core::store::View::check`], and [`Error::InvalidAuthToken`].
    pub(super) async fn permit(
        &self,
        caller: &Caller,
        ask: Option<&Request>,
        access: Access<'_>,
    ) -> Result<Author, Status> {
        let check = || {
            let picture = self.picture();
            let author = self.author(caller, &picture)?;
            service::permit(&author, ask, access, &picture.published.view)?;
            Ok::<_, Error>(author)
        };
        match check() {
            Ok(author) => Ok(author),
            // What was granted, or the session that was opened, may not be known here yet.
            Err(refusal) => match self.ask(Request::ReadIndex).await {
                Ok(_) => Ok(check()?),
                Err(_) => Err(refusal.into()),
            },
        }
    }

    /// Asks consensus on behalf of `caller`, with the hash of `secret` in the command.
    ///
    /// A command whose author was recognised by a state that was behind is refused without effect when it is applied; by
    /// then this member knows that state, and asks again if its answer to who asks is another one now.
    pub(super) async fn ask_by(
        &self,
        caller: &Caller,
        mut ask: Request,
        access: Access<'_>,
        secret: Option<&str>,
    ) -> Result<Response, Status> {
        if ask == Request::ReadIndex {
            return self.ask(ask).await; // Decided by the state that is read.
        }
        let mut author = self.permit(caller, Some(&ask), access).await?;
        if let (Request::Command(Command::Auth(command)), Some(secret)) = (&mut ask, secret) {
            command.seal(self.authenticator.hash(secret).await?);
        }
        let Request::Command(command) = ask else { return self.ask(ask).await };
        if caller.is_nobody() {
            return self.ask(Request::Command(command)).await;
        }
        let mut attempts = 1;
        loop {
            let answer = self.ask(Request::CommandBy(author.clone(), command.clone())).await;
            let refused = answer.as_ref().is_err_and(|status| {
                [Error::UserEmpty, Error::AuthOldRevision].iter().any(|error| *status == error.clone().into())
            });
            if !refused || attempts == ATTEMPTS {
                return answer;
            }
            let now = self.author(caller, &self.picture())?;
            if now == author {
                return answer;
            }
            (author, attempts) = (now, attempts + 1);
        }
    }

    /// Compares a password and gives out a token. (etcd: Authenticate)
    ///
    /// # Errors
    /// etcd's status.
    pub async fn authenticate(&self, request: pb::AuthenticateRequest) -> Result<pb::AuthenticateResponse, Status> {
        let pb::AuthenticateRequest { name, password } = request;
        for _ in 0..ATTEMPTS {
            self.ask(Request::ReadIndex).await?;
            let picture = self.picture();
            if picture.local(&self.settings).is_learner() {
                return Err(Error::NotSupportedForLearner.into());
            }
            let challenge = service::auth::challenge(&name, &picture.local(&self.settings))?;
            if !self.authenticator.matches(password.clone(), challenge.hash).await {
                return Err(Error::AuthFailed.into());
            }
            match self.authenticator.tokens() {
                // etcd's answer where tokens are turned off.
                Tokens::None => return Err(Error::AuthFailed.into()),
                Tokens::Jwt(jwt) => {
                    // If anything has changed since the challenge, the token is an old one already.
                    let text = "auth: token signing attempted with verify-only key";
                    let signed = jwt.sign(&name, challenge.revision);
                    let token = signed.ok_or_else(|| Status::new(Code::Unknown, text))?;
                    let header = Some(self.picture().local(&self.settings).header_now());
                    return Ok(pb::AuthenticateResponse { header, token });
                }
                Tokens::Simple => {
                    let secret = auth::secret()?;
                    let open = service::auth::open_session(name.clone(), challenge.revision, secret.clone());
                    match self.ask(open).await {
                        Ok(Response::Outcome(Outcome::SessionOpened(index))) => {
                            let header = Some(self.picture().local(&self.settings).header_now());
                            return Ok(pb::AuthenticateResponse { header, token: Sessions::token(&secret, index) });
                        }
                        Ok(other) => panic!("consensus answered {other:?} to a session"),
                        // Users or roles have changed since: the password may have, too.
                        Err(status) if status == Error::AuthOldRevision.into() => {}
                        Err(status) => return Err(status),
                    }
                }
            }
        }
        Err(Error::AuthOldRevision.into())
    }

    /// `Authenticate` as a handler of its route.
    pub(super) async fn serve_authenticate(
        self: Arc<Self>,
        _: Caller,
        request: pb::AuthenticateRequest,
    ) -> Result<pb::AuthenticateResponse, Status> {
        self.authenticate(request).await
    }
}
