//! As whom a client calls: the user it is, the password it tries, and the token it got.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::etcdserverpb as pb;
use quorate_core::error::Error;
use quorate_core::rng::Rng;

use super::Token;
use super::chore::Chore;
use crate::call::CallError;
use crate::wire;
use crate::world::redraw::anew;

/// Users that ordinary clients are.
pub const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];
/// Who may do everything.
pub const ROOT: &str = "root";
/// The root user's password: it is set to the same again and again, which ends all of its sessions.
pub const ROOT_PASSWORD: &str = "r00t";
/// Passwords that users have, one after the other.
pub const PASSWORDS: [&str; 2] = ["one", "two"];

/// One client's.
#[derive(Clone, Debug)]
pub struct Badge {
    rng: Rng,
    user: &'static str,
    token: Option<Token>,
    /// Nobody asked who it is when it asked last.
    is_open: bool,
}

impl Badge {
    /// That of client `number`.
    #[must_use]
    pub fn new(rng: Rng, number: usize) -> Self {
        let user = if number % 6 == 5 { ROOT } else { USERS[number % USERS.len()] };
        Self { rng, user, token: None, is_open: true }
    }

    /// The root user's.
    #[must_use]
    pub fn of_root(rng: Rng) -> Self {
        Self { rng, user: ROOT, token: None, is_open: true }
    }

    /// A login, if the client wants one before its next call.
    pub fn login(&mut self) -> Option<Chore> {
        // Where nobody is asked who they are, few log in.
        let (some, of) = if self.is_open { (1, 30) } else { (2, 3) };
        if self.token.is_some() || !self.rng.chance(some, of) {
            return None;
        }
        let right = if self.user == ROOT { ROOT_PASSWORD } else { PASSWORDS[self.rng.below(2) as usize] };
        let password = if self.rng.chance(1, 20) { "wrong" } else { right };
        Some(Chore::Login { name: self.user.into(), password: password.into() })
    }

    /// Draws anew what is left to chance.
    pub fn redraw(&mut self, sample: u64) {
        self.rng = anew(&self.rng, sample);
    }

    /// The token it got, if it has one.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// What the client shows with its next call.
    pub fn show(&mut self) -> Option<Token> {
        match self.rng.below(100) {
            0 => Some(Arc::from("s0000000000000000.7")),
            1 => Some(Arc::from("nonsense")),
            2 => None,
            _ => self.token.clone(),
        }
    }

    /// A login was answered.
    pub fn logged_in(&mut self, answer: &Result<Bytes, CallError>) {
        match answer {
            Ok(bytes) => {
                let reply: pb::AuthenticateResponse = wire::message(bytes.clone());
                self.token = Some(Arc::from(reply.token));
                self.is_open = false;
            }
            other => self.heard(other),
        }
    }

    /// Another call was answered.
    pub fn heard(&mut self, answer: &Result<Bytes, CallError>) {
        let Err(CallError::Status(status)) = answer else { return };
        if *status == Error::InvalidAuthToken.into() {
            (self.token, self.is_open) = (None, false);
        } else if *status == Error::UserEmpty.into() {
            self.is_open = false;
        } else if *status == Error::AuthNotEnabled.into() {
            (self.token, self.is_open) = (None, true);
        }
    }
}
