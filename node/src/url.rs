//! Addresses as etcd writes them: a scheme and `host:port`, nothing more.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Whether the transport is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Scheme {
    Http,
    Https,
}

/// Where a member listens or is reached. Ordered as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    scheme: Scheme,
    /// Without the brackets of an IPv6 address.
    host: String,
    port: u16,
}

impl Url {
    /// Whether connections to it are encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// The host's name or address, an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, an IPv6 address in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Refuses names that a listener cannot be bound to.
    ///
    /// # Errors
    /// etcd's text.
    pub fn check_bindable(&self) -> Result<(), String> {
        if self.host == "localhost" || self.host.is_empty() || self.host.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({self})"))
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("unix" | "unixs", _)) => {
                return Err(format!("unix sockets are not supported by this version: {text}"));
            }
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let malformed = || format!("URL address does not have the form \"host:port\": {text}");
        let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')).ok_or_else(malformed)?,
            None if host.contains([':', '@', ' ']) => return Err(malformed()),
            None => host,
        };
        let port = port.parse().map_err(|_| malformed())?;
        if !path.is_empty() {
            return Err(format!("URL must not contain a path: {text}"));
        }
        Ok(Self { scheme, host: host.to_owned(), port })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl PartialOrd for Url {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Url {
    // IDs are made of sorted texts: the order must be that of the texts, not of the parts.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_string().cmp(&other.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(url: &str) -> String {
        url.parse::<Url>().map_or_else(|error| error, |url| url.to_string())
    }

    #[test]
    fn urls_are_a_scheme_and_host_and_port() {
        for good in ["http://localhost:2379", "https://10.0.0.1:1", "http://[::1]:2380", "http://m-1.example:65535"] {
            assert_eq!(text(good), good);
        }
        assert_eq!(text("localhost:2379"), "URL scheme must be http, https, unix, or unixs: localhost:2379");
        assert_eq!(text("ftp://a:1"), "URL scheme must be http, https, unix, or unixs: ftp://a:1");
        assert_eq!(text("http://a:1/x"), "URL must not contain a path: http://a:1/x");
        for bad in ["http://a", "http://a:b", "http://a:70000", "http://::1:2380", "http://[::1]", "http://[a]:1"] {
            assert_eq!(text(bad), format!("URL address does not have the form \"host:port\": {bad}"));
        }
    }

    #[test]
    fn only_addresses_and_localhost_can_be_bound() {
        let check = |url: &str| url.parse::<Url>().unwrap().check_bindable();
        assert_eq!(check("http://localhost:1"), Ok(()));
        assert_eq!(check("http://[::]:1"), Ok(()));
        let refused = "expected IP in URL for binding (http://example.com:1)".to_owned();
        assert_eq!(check("http://example.com:1"), Err(refused));
    }
}
