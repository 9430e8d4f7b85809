//! Passwords and tokens: what is slow, random or a matter of this member's configuration.

mod jwt;

use std::io::{self, Read as _};
use std::sync::Arc;

use quorate_core::error::Error;
use tokio::sync::Semaphore;

use crate::status::{Code, Status};

pub use jwt::{Jwt, JwtOptions, Signed};

/// How passwords become hashes and users get tokens.
pub struct Authenticator {
    bcrypt_cost: u32,
    tokens: Tokens,
    /// How many passwords may be hashed at once: each takes one core for a tenth of a second.
    hashing: Arc<Semaphore>,
}

/// Which tokens this member gives and takes. (etcd: --auth-token)
pub enum Tokens {
    /// None: only client certificates name users.
    None,
    /// Names of sessions, known to every member.
    Simple,
    /// Signed ones.
    Jwt(Jwt),
}

/// bcrypt looks at no more of a password. (etcd refuses longer ones)
const PASSWORD_BYTES_MAX: usize = 72;

/// Letters in the part of a simple token that nobody can guess. (etcd)
const SECRET_LETTERS: usize = 16;

impl Authenticator {
    /// An authenticator that hashes with this cost (4 to 31: a logarithm of the work).
    #[must_use]
    pub fn new(bcrypt_cost: u32, tokens: Tokens) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Half of the cores stay for everything else.
        Self { bcrypt_cost, tokens, hashing: Arc::new(Semaphore::new((cores / 2).max(1))) }
    }

    /// Which tokens are given and taken.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// The password is too long.
    pub async fn hash(&self, password: &str) -> Result<String, Status> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Status::new(Code::Unknown, "bcrypt: password length exceeds 72 bytes"));
        }
        let (password, cost) = (password.to_owned(), self.bcrypt_cost);
        let hash = self.slowly(move || bcrypt::hash_with_result(password, cost)).await;
        let hash = hash.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        // The version that etcd's library writes.
        Ok(hash.format_for_version(bcrypt::Version::TwoA))
    }

    /// Whether `password` has this hash. A hash that is none matches nothing.
    pub async fn matches(&self, password: String, hash: String) -> bool {
        self.slowly(move || bcrypt::verify(password, &hash).unwrap_or(false)).await
    }

    async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.hashing).acquire_owned().await.expect("the semaphore is never closed");
        let work = move || {
            let _permit = permit; // Also if the client has gone.
            work()
        };
        tokio::task::spawn_blocking(work).await.expect("hashing does not panic")
    }
}

/// A random part for a token.
///
/// # Errors
/// The system gives no random bytes.
pub fn secret() -> Result<String, Error> {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let draw = || -> io::Result<String> {
        let mut bytes = [0; 8 * SECRET_LETTERS];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let letter = |chunk: &[u8]| {
            let number = chunk.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let at = usize::try_from(number % LETTERS.len() as u64).expect("fewer than 256 letters");
            char::from(LETTERS[at])
        };
        Ok(bytes.chunks(8).map(letter).collect())
    };
    draw().map_err(|error| {
        tracing::error!(error = error.to_string(), "no random bytes for a token");
        Error::AuthFailed
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_own_hash_alone() {
        let authenticator = Authenticator::new(4, Tokens::Simple);
        let hash = authenticator.hash("secret").await.unwrap();
        assert!(hash.starts_with("$2a$04$"), "{hash}");
        assert_ne!(hash, authenticator.hash("secret").await.unwrap(), "salted");
        let matches = |password: &str| authenticator.matches(password.to_owned(), hash.clone());
        assert!(matches("secret").await);
        assert!(!matches("Secret").await);
        assert!(!matches("").await);
        assert!(!authenticator.matches("secret".into(), "secret".into()).await, "a hash that is none");
        let too_long = authenticator.hash(&"x".repeat(73)).await.unwrap_err();
        assert_eq!(too_long, Status::new(Code::Unknown, "bcrypt: password length exceeds 72 bytes"));
        assert!(authenticator.hash(&"x".repeat(72)).await.is_ok());
        assert!(authenticator.hash("").await.is_ok(), "an empty password is one (etcd)");
    }

    /// Other libraries, like etcd's, make the same hashes.
    #[tokio::test]
    async fn hashes_made_elsewhere_match() {
        let authenticator = Authenticator::new(4, Tokens::Simple);
        let hash = "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe".to_owned(); // a public test vector
        assert!(authenticator.matches("a".into(), hash).await);
    }

    #[test]
    fn secrets_are_sixteen_letters_and_never_the_same() {
        let (one, other) = (secret().unwrap(), secret().unwrap());
        assert_eq!(one.len(), 16);
        assert!(one.chars().all(|letter| letter.is_ascii_alphabetic()), "{one}");
        assert_ne!(one, other);
    }
}
