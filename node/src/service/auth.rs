//! What a server without authentication says about it: clients with a password ask first. (etcd: service Auth)

use quorate_api::etcdserverpb as pb;
use quorate_core::replica::{Request, Response};

use super::{Local, Method, Settings};
use crate::status::{Code, Status};

impl Method for pb::AuthStatusRequest {
    type Reply = pb::AuthStatusResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Auth/AuthStatus";

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Ok((None, ()))
    }

    fn finish((): (), _: Option<Response>, local: &Local<'_>) -> Result<pb::AuthStatusResponse, Status> {
        // The revision of a store of users that was never changed.
        Ok(pb::AuthStatusResponse { header: Some(local.header_now()), enabled: false, auth_revision: 1 })
    }
}

impl Method for pb::AuthenticateRequest {
    type Reply = pb::AuthenticateResponse;
    type Rest = ();
    const PATH: &'static str = "/etcdserverpb.Auth/Authenticate";

    fn start(self, _: &Settings) -> Result<(Option<Request>, ()), Status> {
        Err(Status::new(Code::FailedPrecondition, "etcdserver: authentication is not enabled"))
    }

    fn finish((): (), _: Option<Response>, _: &Local<'_>) -> Result<pb::AuthenticateResponse, Status> {
        unreachable!("start refuses every request")
    }
}
