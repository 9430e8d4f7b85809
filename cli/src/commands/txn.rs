//! `txn`: compares, requests for success and requests for failure, read from stdin line by line.

use std::io::BufRead;

use bytes::Bytes;
use quorate_api::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_api::etcdserverpb::request_op::Request;
use quorate_api::etcdserverpb::{Compare, RequestOp, TxnRequest};

use crate::commands::{Context, kv};
use crate::failure::{Failure, Result};
use crate::flags::{Args, Flag};
use crate::print::write_stdout;
use crate::{go, words};

pub(super) const FLAGS: &[Flag] = &[Flag::bool("interactive", "ask for the lines").or('i')];

/// `txn`.
pub(super) async fn txn(context: &Context) -> Result<()> {
    if !context.args.words().is_empty() {
        return Err(Failure::bad_args("txn command does not accept argument"));
    }
    let prompts = context.args.bool("interactive");
    let request = tokio::task::spawn_blocking(move || read(&mut std::io::stdin().lock(), prompts))
        .await
        .map_err(|e| Failure::error(e.to_string()))??;
    let response = context.client()?.txn(request).await?;
    context.printer.show(&response)
}

/// Reads the three blocks, each ended by an empty line.
fn read(input: &mut impl BufRead, prompts: bool) -> Result<TxnRequest> {
    let mut block = |prompt: &str| -> Result<Vec<String>> {
        if prompts {
            write_stdout(format!("{prompt}:\n").as_bytes())?;
        }
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            input.read_line(&mut line).map_err(|e| Failure::invalid_input(e.to_string()))?;
            if !line.ends_with('\n') {
                return Err(Failure::invalid_input("EOF"));
            }
            match line.trim() {
                "" => return Ok(lines),
                line => lines.push(line.to_owned()),
            }
        }
    };
    // Each block is checked before the next is asked for.
    let compare = block("compares")?.iter().map(|line| compare(line)).collect::<Result<_>>()?;
    let success = block("success requests (get, put, del)")?.iter().map(|l| operation(l)).collect::<Result<_>>()?;
    let failure = block("failure requests (get, put, del)")?.iter().map(|l| operation(l)).collect::<Result<_>>()?;
    Ok(TxnRequest { compare, success, failure })
}

/// Reads `target("key") op "value"`.
fn compare(line: &str) -> Result<Compare> {
    let malformed = |why: String| Failure::invalid_input(format!("malformed comparison: {line}{why}"));
    let Some((target, rest)) = line.split_once('(') else { return Err(malformed(String::new())) };
    let (key, op, value) = match parts(rest) {
        (key, op, Some(value)) => (key, op, value),
        (key, op, None) => return Err(malformed(format!("; got {target}({}) {op} \"\"", go::quote(&key)))),
    };
    let number = |radix| {
        go::parse_int(&String::from_utf8_lossy(&value), radix)
            .map_err(|_| Failure::invalid_input(format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(Bytes::from(value.clone()))),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => return Err(malformed(format!(" (unknown target {target})"))),
    };
    let result = match op {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        _ => return Err(malformed(format!(" (unknown result op {op})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::from(key),
        range_end: Bytes::new(),
        target_union: Some(union),
    })
}

/// Takes `"key") op "value"` apart as far as it goes.
fn parts(text: &str) -> (Vec<u8>, &str, Option<Vec<u8>>) {
    let Some((key, rest)) = go::unquote_prefix(text.trim_start()) else { return (Vec::new(), "", None) };
    let Some(rest) = rest.strip_prefix(')') else { return (key, "", None) };
    let Some(rest) = rest.strip_prefix(char::is_whitespace).map(str::trim_start) else { return (key, "", None) };
    let (op, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    let value = go::unquote_prefix(rest.trim_start()).map(|(value, _)| value);
    (key, op, value)
}

/// Reads a `get`, `put` or `del` with its flags.
fn operation(line: &str) -> Result<RequestOp> {
    let invalid = || Failure::invalid_input(format!("invalid txn request: {line}"));
    let mut words = words::split(line);
    if words.len() < 2 {
        return Err(Failure::invalid_input(format!("invalid txn compare request: {line}")));
    }
    let command = words.remove(0);
    let args = |flags: &'static [Flag]| {
        Args::parse(flags, &words).map_err(|error| {
            eprintln!("Error: {error}");
            invalid()
        })
    };
    let request = match command.as_str() {
        "get" => Request::RequestRange(kv::range_request(&args(kv::GET_FLAGS)?)?),
        // Stdin holds the transaction's own lines, so no value can come from it.
        "put" => Request::RequestPut(kv::put_request(&args(kv::PUT_FLAGS)?, || Ok(Vec::new()))?),
        "del" => Request::RequestDeleteRange(kv::delete_request(&args(kv::DEL_FLAGS)?)?),
        _ => return Err(invalid()),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> String {
        compare(line).unwrap_err().message.unwrap()
    }

    #[test]
    fn comparisons_name_target_operator_and_value() {
        let c = compare(r#"mod("a\"b") > "3""#).unwrap();
        assert_eq!((&c.key[..], c.target(), c.result()), (&b"a\"b"[..], CompareTarget::Mod, CompareResult::Greater));
        assert_eq!(c.target_union, Some(TargetUnion::ModRevision(3)));
        assert_eq!(compare(r#"val(`k`)   =  "\x00v""#).unwrap().target_union, Some(TargetUnion::Value("\0v".into())));
        assert_eq!(compare(r#"lease("k") != "1f""#).unwrap().target_union, Some(TargetUnion::Lease(31)));
        assert_eq!(compare(r#"ver("k") < "1""#).unwrap().result(), CompareResult::Less);
        assert_eq!(compare(r#"create("k") = "0""#).unwrap().target(), CompareTarget::Create);
    }

    #[test]
    fn bad_comparisons_are_refused_in_etcdctls_words() {
        assert_eq!(message(r#"mod("a") 0"#), r#"malformed comparison: mod("a") 0; got mod("a") 0 """#);
        assert_eq!(message(r#"mod(a) = "1""#), r#"malformed comparison: mod(a) = "1"; got mod("")  """#);
        assert_eq!(message(r#"mod("a")="1""#), r#"malformed comparison: mod("a")="1"; got mod("a")  """#);
        assert_eq!(message(r#"foo("a") = "0""#), r#"malformed comparison: foo("a") = "0" (unknown target foo)"#);
        assert_eq!(message(r#"mod("a") = "x""#), r#"invalid txn compare request: mod("a") = "x""#);
        assert_eq!(message("nothing"), "malformed comparison: nothing");
        assert_eq!(message(r#"val("a") ~ "x""#), r#"malformed comparison: val("a") ~ "x" (unknown result op ~)"#);
    }

    #[test]
    fn the_three_blocks_end_with_empty_lines() {
        let input = "mod(\"a\") > \"0\"\n\nput k1 \"v 1\" --prev-kv\nget a --prefix\n\ndel z\n\n";
        let txn = read(&mut input.as_bytes(), false).unwrap();
        assert_eq!((txn.compare.len(), txn.success.len(), txn.failure.len()), (1, 2, 1));
        let Some(Request::RequestPut(put)) = &txn.success[0].request else { panic!("no put") };
        assert_eq!((&put.value[..], put.prev_kv), (&b"v 1"[..], true));
        assert_eq!(read(&mut "\n\n".as_bytes(), false).unwrap_err(), Failure::invalid_input("EOF"));
        assert_eq!(read(&mut "\nput a\n".as_bytes(), false).unwrap_err().message.unwrap(), "EOF");
    }

    #[test]
    fn bad_requests_are_refused() {
        let failure = |line: &str| operation(line).unwrap_err();
        assert_eq!(failure("foo a"), Failure::invalid_input("invalid txn request: foo a"));
        assert_eq!(failure("put"), Failure::invalid_input("invalid txn compare request: put"));
        assert_eq!(failure("put a --foo"), Failure::invalid_input("invalid txn request: put a --foo"));
        assert_eq!(failure("put a").code, 128);
    }
}
