//! The gate that every call of a client passes, over gRPC: callers by their tokens and certificates, and what
//! [`service::gate`] says carried out.

use std::sync::{Arc, OnceLock};

use axum::http::Extensions;
use quorate_api::etcdserverpb as pb;
use quorate_core::auth::Author;
use quorate_core::error::Error;
use quorate_core::replica::{Request, Response};
use quorate_core::rows::Rows;
use tonic::metadata::MetadataMap;

use super::{Picture, Server};
use crate::auth::{self, Signed, Tokens};
use crate::service::gate::{self, Keeper, Login, Passage, Step};
use crate::service::{self, Access};
use crate::status::{Code, Status};

/// Who calls, as their connection and their metadata say; nothing of it is believed yet.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Sent as `token`, or as `authorization` with or without `Bearer `.
    token: Option<String>,
    /// Of the client's certificate, which was verified.
    common_name: Option<String>,
    /// What a signed token says: its signature is looked at once, how long it is good each time.
    signed: OnceLock<Option<Signed>>,
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

/// A caller at the gate.
struct Visit<'a, S> {
    server: &'a Server<S>,
    caller: &'a Caller,
    access: Access<'a>,
}

impl<S: Rows + Send + Sync + 'static> Keeper for Visit<'_, S> {
    fn author(&self) -> Result<Author, Error> {
        self.server.author(self.caller, &self.server.picture())
    }

    fn permit(&self, ask: Option<&Request>) -> Result<Author, Error> {
        let picture = self.server.picture();
        let author = self.server.author(self.caller, &picture)?;
        service::permit(&author, ask, self.access, &picture.published.view)?;
        Ok(author)
    }
}

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
                Tokens::Simple => return gate::recognise(token, &picture.published, self.member.now()),
                Tokens::Jwt(jwt) => {
                    let signed = caller.signed.get_or_init(|| jwt.check(token)).as_ref();
                    let (name, revision) = signed.and_then(Signed::user).ok_or(Error::InvalidAuthToken)?;
                    return Ok(Author::User { name: name.to_owned(), revision });
                }
                Tokens::None => return Err(Error::InvalidAuthToken),
            },
            (None, Some(name)) => name.clone(),
            (None, None) => return Ok(Author::Nobody),
        };
        Ok(Author::User { name, revision: auth.revision() })
    }

    /// Refuses `caller` what it may not have.
    ///
    /// # Errors
    /// Those of [`quorate_core::store::View::check`], and [`Error::InvalidAuthToken`].
    pub(super) async fn permit(&self, caller: &Caller, access: Access<'_>) -> Result<(), Status> {
        self.pass(caller, None, access, None).await.map(drop)
    }

    /// Leads `caller` through the gate, and asks consensus on its behalf, with the hash of `secret` in the command.
    ///
    /// # Errors
    /// Those of the gate and of consensus.
    pub(super) async fn pass(
        &self,
        caller: &Caller,
        ask: Option<Request>,
        access: Access<'_>,
        secret: Option<&str>,
    ) -> Result<Option<Response>, Status> {
        let visit = Visit { server: self, caller, access };
        let mut passage = Passage::new(ask, caller.is_nobody(), secret.is_some());
        let mut step = passage.start(&visit);
        loop {
            step = match step {
                Step::Ask(request) => passage.answered(self.ask(request).await, &visit)?,
                Step::Hash => passage.hashed(self.authenticator.hash(secret.unwrap_or_default()).await?),
                Step::Through(answer) => return Ok(answer),
            }
        }
    }

    /// Compares a password and gives out a token. (etcd: Authenticate)
    ///
    /// # Errors
    /// etcd's status.
    pub async fn authenticate(&self, request: pb::AuthenticateRequest) -> Result<pb::AuthenticateResponse, Status> {
        service::admit(false, &self.picture().local(&self.settings))?;
        let pb::AuthenticateRequest { name, password } = request;
        let mut login = Login::new(name.clone());
        let token = loop {
            self.ask(Request::ReadIndex).await?;
            let hash = login.challenge(&self.picture().local(&self.settings))?;
            if !self.authenticator.matches(password.clone(), hash).await {
                return Err(Error::AuthFailed.into());
            }
            match self.authenticator.tokens() {
                // etcd's answer where tokens are turned off.
                Tokens::None => return Err(Error::AuthFailed.into()),
                Tokens::Jwt(jwt) => {
                    // If anything has changed since the challenge, the token is an old one already.
                    let text = "auth: token signing attempted with verify-only key";
                    let signed = jwt.sign(&name, login.revision());
                    break signed.ok_or_else(|| Status::new(Code::Unknown, text))?;
                }
                Tokens::Simple => {
                    let answer = self.ask(login.open(auth::secret()?)).await;
                    if let Some(token) = login.opened(answer)? {
                        break token;
                    }
                }
            }
        };
        let header = Some(self.picture().local(&self.settings).header_now());
        Ok(pb::AuthenticateResponse { header, token })
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
