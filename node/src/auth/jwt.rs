//! Signed tokens: they name a user and the revision of users and roles they were given at. (etcd: --auth-token jwt,...)
//!
//! Any change of users or roles makes every token old that was given before it; its client authenticates again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quorate_core::auth::AuthRevision;
use serde::{Deserialize, Serialize};

/// How tokens are signed. (etcd: the options behind `jwt,`)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// `sign-method`.
    pub method: Algorithm,
    /// `pub-key`: the file with the key that signatures are checked with.
    pub public_key: Option<PathBuf>,
    /// `priv-key`: the file with the key that tokens are signed with; without it they are only checked.
    pub private_key: Option<PathBuf>,
    /// How long a token is good.
    pub ttl: Duration,
}

impl JwtOptions {
    /// Reads `key=value` pairs, separated by commas.
    ///
    /// # Errors
    /// etcd's text.
    pub fn parse(text: &str, duration: impl Fn(&str) -> Option<Duration>) -> Result<Self, String> {
        const INVALID: &str = "auth: invalid auth options";
        let (mut method, mut public_key, mut private_key, mut ttl) = (None, None, None, None);
        for pair in text.split(',') {
            let (name, value) = pair.split_once('=').ok_or(INVALID)?;
            let twice = match name {
                "sign-method" => method.replace(value).is_some(),
                "pub-key" => public_key.replace(PathBuf::from(value)).is_some(),
                "priv-key" => private_key.replace(PathBuf::from(value)).is_some(),
                "ttl" => ttl.replace(duration(value).ok_or(INVALID)?).is_some(),
                _ => false, // etcd passes over what it does not know.
            };
            if twice {
                return Err(INVALID.to_owned());
            }
        }
        let method = method.and_then(algorithm).ok_or("auth: invalid auth signature method")?;
        if public_key.is_none() && (private_key.is_none() || !is_symmetric(method)) {
            return Err("auth: missing key data".to_owned());
        }
        Ok(Self { method, public_key, private_key, ttl: ttl.unwrap_or(Duration::from_secs(300)) })
    }
}

/// etcd's names, which are the standard's. ES512 is missing: the library does not know it.
fn algorithm(name: &str) -> Option<Algorithm> {
    name.parse().ok()
}

fn is_symmetric(method: Algorithm) -> bool {
    matches!(method, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// Signs and checks tokens.
pub struct Jwt {
    options: JwtOptions,
    loaded: Mutex<Loaded>,
}

/// The keys as last read, and when their files are looked at again.
struct Loaded {
    keys: Arc<Keys>,
    versions: [Option<SystemTime>; 2],
    look: Instant,
}

struct Keys {
    sign: Option<EncodingKey>,
    check: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    revision: u64,
    exp: u64,
}

/// What a token says whose signature is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    name: String,
    revision: AuthRevision,
    /// The last second it is good, since 1970.
    until: u64,
}

impl Signed {
    /// Whom it names, unless it has run out.
    #[must_use]
    pub fn user(&self) -> Option<(&str, AuthRevision)> {
        (jsonwebtoken::get_current_timestamp() <= self.until).then_some((&*self.name, self.revision))
    }
}

/// Key files are looked at again after so long.
const LOOK: Duration = Duration::from_secs(1);

impl Jwt {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key file cannot be read, or has no key for the method.
    pub fn new(options: JwtOptions) -> Result<Self, String> {
        let versions = versions(&options);
        let keys = Arc::new(read(&options)?);
        Ok(Self { options, loaded: Mutex::new(Loaded { keys, versions, look: Instant::now() + LOOK }) })
    }

    /// A token for `user`; `None` if this member has no key to sign it with.
    #[must_use]
    pub fn sign(&self, user: &str, revision: AuthRevision) -> Option<String> {
        let keys = self.keys();
        let exp = jsonwebtoken::get_current_timestamp() + self.options.ttl.as_secs();
        let claims = Claims { username: user.to_owned(), revision: revision.0, exp };
        jsonwebtoken::encode(&Header::new(self.options.method), &claims, keys.sign.as_ref()?).ok()
    }

    /// What `token` says, if it is signed as it should be, is good already and has not run out. It may do so later.
    #[must_use]
    pub fn check(&self, token: &str) -> Option<Signed> {
        let Claims { username, revision, exp } = decode(token, &self.keys().check, self.options.method).ok()?;
        Some(Signed { name: username, revision: AuthRevision(revision), until: exp })
    }

    /// The keys, read again if their files have changed. Keys that cannot be read leave the ones before in force.
    fn keys(&self) -> Arc<Keys> {
        let mut loaded = self.loaded.lock().expect("no holder panics");
        if Instant::now() >= loaded.look {
            loaded.look = Instant::now() + LOOK;
            let versions = versions(&self.options);
            if versions != loaded.versions {
                match read(&self.options) {
                    Ok(keys) => (loaded.keys, loaded.versions) = (Arc::new(keys), versions),
                    Err(error) => {
                        tracing::warn!(error, "the keys of tokens cannot be read again; keeping the old ones")
                    }
                }
            }
        }
        Arc::clone(&loaded.keys)
    }
}

fn decode(token: &str, key: &DecodingKey, method: Algorithm) -> Result<Claims, jsonwebtoken::errors::Error> {
    let mut validation = Validation::new(method);
    validation.leeway = 0;
    validation.validate_nbf = true;
    validation.validate_aud = false;
    jsonwebtoken::decode::<Claims>(token, key, &validation).map(|token| token.claims)
}

fn versions(options: &JwtOptions) -> [Option<SystemTime>; 2] {
    [&options.public_key, &options.private_key]
        .map(|path| std::fs::metadata(path.as_ref()?).and_then(|metadata| metadata.modified()).ok())
}

fn read(options: &JwtOptions) -> Result<Keys, String> {
    let bytes = |path: &Option<PathBuf>| match path {
        Some(path) => std::fs::read(path).map(Some).map_err(|error| format!("{}: {error}", path.display())),
        None => Ok(None),
    };
    let method = options.method;
    let (public, private) = (bytes(&options.public_key)?, bytes(&options.private_key)?);
    let wrong = |error: jsonwebtoken::errors::Error| format!("auth: invalid key for {method:?}: {error}");
    if is_symmetric(method) {
        // One secret for both; etcd takes it from the private key's file.
        let secret = private.or(public).ok_or("auth: missing key data")?;
        return Ok(Keys { sign: Some(EncodingKey::from_secret(&secret)), check: DecodingKey::from_secret(&secret) });
    }
    let public = public.ok_or("auth: missing key data")?;
    let (sign, check) = match method {
        Algorithm::ES256 | Algorithm::ES384 => {
            let sign = |pem: Vec<u8>| match sec1(&pem) {
                Some(key) => Ok(EncodingKey::from_ec_der(&pkcs8(&key, method))),
                None => EncodingKey::from_ec_pem(&pem),
            };
            (private.map(sign), DecodingKey::from_ec_pem(&public))
        }
        Algorithm::EdDSA => (private.map(|pem| EncodingKey::from_ed_pem(&pem)), DecodingKey::from_ed_pem(&public)),
        _ => (private.map(|pem| EncodingKey::from_rsa_pem(&pem)), DecodingKey::from_rsa_pem(&public)),
    };
    let keys = Keys { sign: sign.transpose().map_err(wrong)?, check: check.map_err(wrong)? };
    if let Some(sign) = &keys.sign {
        // A key of another kind or size shows only when it is used; and the two must belong together.
        let probe = Claims { username: String::new(), revision: 0, exp: u64::from(u32::MAX) };
        let token = jsonwebtoken::encode(&Header::new(method), &probe, sign).map_err(wrong)?;
        decode(&token, &keys.check, method).map_err(|_| "auth: public and private keys don't match")?;
    }
    Ok(keys)
}

/// The DER of an `EC PRIVATE KEY`, the form openssl gives elliptic keys by itself. (RFC 5915)
fn sec1(pem: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN EC PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END EC PRIVATE KEY-----")?;
    BASE64_STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

/// A SEC 1 key as the library wants it. (RFC 5958)
fn pkcs8(sec1: &[u8], method: Algorithm) -> Vec<u8> {
    const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    let curve = if method == Algorithm::ES256 { P256 } else { P384 };
    let kind = der(SEQUENCE, &[EC_PUBLIC_KEY, curve].concat());
    der(SEQUENCE, &[&[0x02, 0x01, 0x00], &kind[..], &der(OCTETS, sec1)[..]].concat())
}

/// One value in DER; `content` is shorter than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = vec![tag];
    match content.len() {
        0..0x80 => out.push(len[1]),
        0x80..0x100 => out.extend([0x81, len[1]]),
        _ => out.extend([0x82, len[0], len[1]]),
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/jwt").join(name)
    }

    fn options(method: &str, key: &str) -> String {
        let (public, private) = (file(&format!("{key}.pub.pem")), file(&format!("{key}.pem")));
        format!("sign-method={method},pub-key={},priv-key={},ttl=10s", public.display(), private.display())
    }

    fn parse(text: &str) -> Result<JwtOptions, String> {
        JwtOptions::parse(text, |text| text.strip_suffix('s')?.parse().ok().map(Duration::from_secs))
    }

    const METHODS: &[(&str, &str)] = &[
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed25519"),
    ];

    #[test]
    fn what_one_key_signed_that_key_alone_confirms() {
        let jwts: Vec<Jwt> =
            METHODS.iter().map(|(method, key)| Jwt::new(parse(&options(method, key)).unwrap()).unwrap()).collect();
        for (n, jwt) in jwts.iter().enumerate() {
            let (method, _) = METHODS[n];
            let token = jwt.sign("alice", AuthRevision(7)).unwrap();
            let signed = jwt.check(&token);
            assert_eq!(signed.as_ref().and_then(Signed::user), Some(("alice", AuthRevision(7))), "{method}");
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
            assert_eq!(jwt.check(&forged), None, "{method}");
            for (other, it) in jwts.iter().enumerate().filter(|(other, _)| *other != n) {
                assert_eq!(it.check(&token), None, "{method} is not {}", METHODS[other].0);
            }
        }
    }

    #[test]
    fn a_token_runs_out() {
        let mut options = parse(&options("RS256", "rsa")).unwrap();
        options.ttl = Duration::ZERO;
        let jwt = Jwt::new(options).unwrap();
        let token = jwt.sign("alice", AuthRevision(7)).unwrap();
        let checked = jwt.check(&token);
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(jwt.check(&token), None);
        // Also for who has looked at it when it was good.
        assert_eq!(checked.as_ref().and_then(Signed::user), None);
    }

    #[test]
    fn a_token_is_not_good_before_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "one").unwrap();
        let text = format!("sign-method=HS256,priv-key={}", secret.display());
        let jwt = Jwt::new(parse(&text).unwrap()).unwrap();
        let now = jsonwebtoken::get_current_timestamp();
        let sign = |claims: serde_json::Value| {
            jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(b"one")).unwrap()
        };
        let claims = |nbf: u64| serde_json::json!({"username": "alice", "revision": 7, "exp": now + 60, "nbf": nbf});
        assert!(jwt.check(&sign(claims(now - 5))).is_some());
        assert_eq!(jwt.check(&sign(claims(now + 30))), None);
    }

    #[test]
    fn who_has_only_the_public_key_confirms_and_does_not_sign() {
        let text = format!("sign-method=RS256,pub-key={}", file("rsa.pub.pem").display());
        let verifier = Jwt::new(parse(&text).unwrap()).unwrap();
        assert_eq!(verifier.sign("alice", AuthRevision(7)), None);
        let signer = Jwt::new(parse(&options("RS256", "rsa")).unwrap()).unwrap();
        assert!(verifier.check(&signer.sign("alice", AuthRevision(7)).unwrap()).is_some());
    }

    #[test]
    fn keys_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "one").unwrap();
        let text = format!("sign-method=HS256,priv-key={}", secret.display());
        let jwt = Jwt::new(parse(&text).unwrap()).unwrap();
        let old = jwt.sign("alice", AuthRevision(7)).unwrap();
        assert!(jwt.check(&old).is_some());
        std::fs::write(&secret, "another").unwrap();
        std::thread::sleep(LOOK + Duration::from_millis(100));
        assert_eq!(jwt.check(&old), None);
        assert!(jwt.check(&jwt.sign("alice", AuthRevision(8)).unwrap()).is_some());
        std::fs::remove_file(&secret).unwrap();
        std::thread::sleep(LOOK + Duration::from_millis(100));
        assert!(jwt.sign("alice", AuthRevision(8)).is_some(), "the last keys stay in force");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for (text, error) in [
            ("", "auth: invalid auth options"),
            ("pub-key", "auth: invalid auth options"),
            ("sign-method=RS256,sign-method=RS256,pub-key=x", "auth: invalid auth options"),
            ("sign-method=RS256,pub-key=x,ttl=soon", "auth: invalid auth options"),
            ("pub-key=x", "auth: invalid auth signature method"),
            ("sign-method=none,pub-key=x", "auth: invalid auth signature method"),
            ("sign-method=RS256", "auth: missing key data"),
            ("sign-method=RS256,priv-key=x", "auth: missing key data"),
            ("sign-method=HS256", "auth: missing key data"),
        ] {
            assert_eq!(parse(text), Err(error.to_owned()), "{text}");
        }
        let pair = |method, public: &str, private: &str| {
            let (public, private) = (file(public), file(private));
            format!("sign-method={method},pub-key={},priv-key={}", public.display(), private.display())
        };
        for text in [
            pair("ES256", "rsa.pub.pem", "p256.pem"),
            pair("ES256", "p256.pub.pem", "rsa.pem"),
            pair("ES256", "p384.pub.pem", "p384.pem"),
            pair("ES256", "p256.pem", "p256.pem"),
            "sign-method=RS256,pub-key=/nowhere".to_owned(),
        ] {
            assert!(Jwt::new(parse(&text).unwrap()).is_err(), "{text}");
        }
    }
}
