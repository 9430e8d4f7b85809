//! Flags that every command understands, and the environment variables that stand for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use quorate_tls::{Connector, Files, Trust, Versions};

use crate::client::Config;
use crate::failure::{Failure, Result};
use crate::flags::{Args, Flag, Kind};
use crate::json::Object;
use crate::prompt;

const fn duration(name: &'static str, default: &'static str, about: &'static str) -> Flag {
    Flag { name, short: None, kind: Kind::Duration, default, about }
}

const fn on(name: &'static str, about: &'static str) -> Flag {
    Flag { name, short: None, kind: Kind::Bool, default: "true", about }
}

/// The flags of every command.
pub const GLOBAL_FLAGS: &[Flag] = &[
    Flag::string("auth-jwt-token", "", "a JWT to send instead of a name and password"),
    Flag::string("cacert", "", "file with the certificate authorities that servers are checked against"),
    Flag::string("cert", "", "file with this client's TLS certificate"),
    duration("command-timeout", "5s", "how long a short command may take"),
    Flag::bool("debug", "tell on stderr what the client does"),
    duration("dial-timeout", "2s", "how long an attempt to connect may take"),
    Flag::string("discovery-srv", "", "domain whose SRV records name the endpoints").or('d'),
    Flag::string("discovery-srv-name", "", "suffix of the service's name in SRV records"),
    Flag {
        name: "endpoints",
        short: None,
        kind: Kind::Strings,
        default: "127.0.0.1:2379",
        about: "the cluster's client endpoints",
    },
    Flag::bool("hex", "show keys and values as hexadecimal escapes"),
    on("insecure-discovery", "accept SRV records of services without TLS"),
    Flag::bool("insecure-skip-tls-verify", "do not check the servers' certificates"),
    on("insecure-transport", "connect without TLS"),
    duration("keepalive-time", "2s", "how often to ping an idle connection"),
    duration("keepalive-timeout", "6s", "how long to wait for a ping's answer"),
    Flag::string("key", "", "file with this client's TLS key"),
    Flag::int("max-recv-bytes", "0", "largest response accepted, in bytes (0: 2147483647)"),
    Flag::int("max-request-bytes", "0", "largest request sent, in bytes (0: 2 MiB)"),
    Flag::string("password", "", "the user's password"),
    Flag::string("user", "", "name[:password] of the user"),
    Flag::string("write-out", "simple", "output format: fields, json, protobuf, simple or table").or('w'),
];

/// Variables of commands, not of flags.
const OTHER_VARIABLES: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// Gives the global flags that were not given the values of their `ETCDCTL_*` variables.
///
/// # Errors
/// A flag was given as well, or a value is malformed.
pub fn environment(args: &mut Args, vars: &BTreeMap<String, String>) -> Result<()> {
    for (variable, value) in vars.iter().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
        let flag = GLOBAL_FLAGS.iter().find(|flag| variable_of(flag) == *variable);
        let Some(flag) = flag else {
            if !OTHER_VARIABLES.contains(&variable.as_str()) {
                log("warn", "unrecognized environment variable", &format!("{variable}={value}"));
            }
            continue;
        };
        if args.is_given(flag.name) {
            let text = "conflicting environment variable is shadowed by corresponding command-line flag \
                        (either unset environment variable or disable flag))";
            log("fatal", text, variable);
            return Err(Failure::silent(1));
        }
        if value.is_empty() {
            continue;
        }
        args.set(flag, value.clone()).map_err(|error| {
            let error = error.split_once(" flag: ").map_or(error.as_str(), |(_, why)| why);
            Failure::bad_args(format!("invalid value {value:?} for {variable}: {error}"))
        })?;
    }
    Ok(())
}

fn variable_of(flag: &Flag) -> String {
    format!("ETCDCTL_{}", flag.name.to_uppercase().replace('-', "_"))
}

fn log(level: &str, text: &str, variable: &str) {
    let object = Object::new().string("level", level).string("ts", &crate::clock::now());
    eprintln!("{}", object.string("msg", text).string("environment-variable", variable).build());
}

/// How the global flags say to reach the cluster.
///
/// # Errors
/// They ask for what cannot be had.
pub(super) fn config(args: &Args) -> Result<Config> {
    for (flag, text) in [
        ("cert", "empty string is passed to --cert option"),
        ("key", "empty string is passed to --key option"),
        ("cacert", "empty string is passed to --cacert option"),
    ] {
        if args.is_given(flag) && args.string(flag).is_empty() {
            return Err(Failure::bad_args(text));
        }
    }
    let (connector, is_secure) = tls(args)?;
    if !args.string("discovery-srv").is_empty() {
        return Err(Failure::bad_args("--discovery-srv: discovery by DNS is not supported by this build yet"));
    }
    let size = |flag: &str, default: usize| match usize::try_from(args.int(flag)) {
        Ok(0) | Err(_) => default,
        Ok(bytes) => bytes,
    };
    Ok(Config {
        endpoints: args.strings("endpoints"),
        dial_timeout: args.duration("dial-timeout").max(Duration::from_millis(1)),
        command_timeout: Some(args.duration("command-timeout")),
        keepalive_time: args.duration("keepalive-time"),
        keepalive_timeout: args.duration("keepalive-timeout"),
        max_request_bytes: size("max-request-bytes", 2 << 20),
        max_recv_bytes: size("max-recv-bytes", i32::MAX as usize),
        user: user(args)?,
        token: Some(args.string("auth-jwt-token").to_owned()).filter(|token| !token.is_empty()),
        connector,
        is_secure,
    })
}

/// How to open connections, and whether endpoints without a scheme use TLS: if any of its files is given, or plain
/// transport is ruled out.
fn tls(args: &Args) -> Result<(Connector, bool)> {
    let file = |flag: &str| Some(args.string(flag)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let files = Files { cert: file("cert"), key: file("key"), trusted_ca: file("cacert") };
    let is_secure = files != Files::default() || !args.bool("insecure-transport");
    if !is_secure && !args.strings("endpoints").iter().any(|endpoint| endpoint.starts_with("https://")) {
        return Ok((Connector::plain(), false));
    }
    // Without a reason for TLS beside the endpoint's scheme the flag has no effect, as in etcdctl.
    let trust = match args.bool("insecure-skip-tls-verify") && is_secure {
        true => Trust::Anyone,
        false => Trust::Verified,
    };
    match Connector::new(&files, trust, Versions::Tls12, Versions::Tls13) {
        Ok(connector) => Ok((connector, is_secure)),
        Err(error) => Err(Failure::bad_args(error.to_string())),
    }
}

/// Who calls; a password that is not given is asked for.
fn user(args: &Args) -> Result<Option<(String, String)>> {
    let (user, password) = (args.string("user"), args.string("password"));
    if user.is_empty() {
        return Ok(None);
    }
    if !password.is_empty() {
        return Ok(Some((user.to_owned(), password.to_owned())));
    }
    match user.split_once(':') {
        Some((name, password)) => Ok(Some((name.to_owned(), password.to_owned()))),
        None => Ok(Some((user.to_owned(), prompt::password("Password: ")?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(raw: &[&str], vars: &[(&str, &str)]) -> Result<Args> {
        let raw: Vec<String> = raw.iter().map(|w| (*w).to_owned()).collect();
        let mut args = Args::parse(GLOBAL_FLAGS, &raw).unwrap();
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment(&mut args, &vars).map(|()| args)
    }

    #[test]
    fn variables_stand_for_flags_that_are_not_given() {
        let args = with(&["--hex"], &[("ETCDCTL_ENDPOINTS", "a:1,b:2"), ("ETCDCTL_API", "3")]).unwrap();
        assert_eq!(args.strings("endpoints"), ["a:1", "b:2"]);
        assert_eq!(config(&args).unwrap().command_timeout, Some(Duration::from_secs(5)));
        assert_eq!(with(&["--endpoints", "a:1"], &[("ETCDCTL_ENDPOINTS", "b:2")]).unwrap_err(), Failure::silent(1));
        assert_eq!(with(&[], &[("ETCDCTL_DIAL_TIMEOUT", "x")]).unwrap_err().code, 128);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for raw in [&["--cert="][..], &["--cacert", "/no/such"], &["--cert", "f"]] {
            assert_eq!(config(&with(raw, &[]).unwrap()).unwrap_err().code, 128, "{raw:?}");
        }
        let user = config(&with(&["--user", "root:pa:ss"], &[]).unwrap()).unwrap().user;
        assert_eq!(user, Some(("root".to_owned(), "pa:ss".to_owned())));
    }
}
