//! `put`, `get` and `del`. `txn` builds its requests here, too.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use crate::commands::{Context, prefix_end};
use crate::failure::{Failure, Result};
use crate::flags::{Args, Flag};
use crate::go;
use crate::print::{Format, Printer};

pub(super) const PUT_FLAGS: &[Flag] = &[
    Flag::bool("ignore-lease", "keep the key's lease"),
    Flag::bool("ignore-value", "keep the key's value"),
    Flag::string("lease", "0", "lease to attach the key to, in hexadecimal"),
    Flag::bool("prev-kv", "show what the key held before"),
];

pub(super) const GET_FLAGS: &[Flag] = &[
    Flag::string("consistency", "l", "linearizable (l) or serializable (s)"),
    Flag::bool("count-only", "count the keys without reading them"),
    Flag::bool("from-key", "read all keys from the given one on"),
    Flag::bool("keys-only", "leave the values out"),
    Flag::int("limit", "0", "read at most so many keys (0: all)"),
    Flag::int("max-create-rev", "0", "only keys created at or below this revision"),
    Flag::int("max-mod-rev", "0", "only keys last written at or below this revision"),
    Flag::int("min-create-rev", "0", "only keys created at or above this revision"),
    Flag::int("min-mod-rev", "0", "only keys last written at or above this revision"),
    Flag::string("order", "", "ASCEND or DESCEND"),
    Flag::bool("prefix", "read all keys that begin with the given one"),
    Flag::bool("print-value-only", "in format simple, write values without their keys"),
    Flag::int("rev", "0", "read as of this revision (0: the newest)"),
    Flag::string("sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION"),
];

pub(super) const DEL_FLAGS: &[Flag] = &[
    Flag::bool("from-key", "delete all keys from the given one on"),
    Flag::bool("prefix", "delete all keys that begin with the given one"),
    Flag::bool("prev-kv", "show what was deleted"),
    Flag::bool("range", "two keys are meant as a range"),
];

/// `put`.
pub(super) async fn put(context: &Context) -> Result<()> {
    let request = put_request(&context.args, || {
        let mut value = Vec::new();
        std::io::stdin().read_to_end(&mut value).map(|_| value)
    })?;
    let response = context.client()?.put(request).await?;
    context.printer.show(&response)
}

/// The request of a `put`; a missing value is read by `stdin`.
pub(super) fn put_request(args: &Args, stdin: impl FnOnce() -> std::io::Result<Vec<u8>>) -> Result<PutRequest> {
    let needs = || Failure::bad_args("put command needs 1 argument and input from stdin or 2 arguments");
    let (key, value) = match args.words() {
        [_, _, ..] if args.bool("ignore-value") => {
            return Err(Failure::bad_args("put command needs only 1 argument when 'ignore-value' is set"));
        }
        // As in etcdctl, further words are ignored, here and in `get`.
        [key, value, ..] => (key, value.clone().into_bytes()),
        [key] if args.bool("ignore-value") => (key, Vec::new()),
        [key] => match stdin() {
            Ok(value) if !value.is_empty() => (key, value),
            _ => return Err(needs()),
        },
        _ => return Err(needs()),
    };
    let lease = go::parse_int(args.string("lease"), 16)
        .map_err(|why| Failure::bad_args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
    Ok(PutRequest {
        key: Bytes::from(key.clone()),
        value: Bytes::from(value),
        lease,
        prev_kv: args.bool("prev-kv"),
        ignore_value: args.bool("ignore-value"),
        ignore_lease: args.bool("ignore-lease"),
    })
}

/// `get`.
pub(super) async fn get(context: &Context) -> Result<()> {
    let (args, mut printer) = (&context.args, context.printer);
    let request = range_request(args)?;
    if request.count_only && printer.format != Format::Fields {
        return Err(Failure::bad_args("--count-only is only for `--write-out=fields`"));
    }
    let value_only = args.bool("print-value-only");
    if value_only && printer.format != Format::Simple {
        return Err(Failure::bad_args("print-value-only is only for `--write-out=simple`"));
    }
    printer = Printer { style: crate::print::Style { value_only, ..printer.style }, ..printer };
    let response = context.client()?.range(request).await?;
    printer.show(&response)
}

/// The request of a `get`.
pub(super) fn range_request(args: &Args) -> Result<RangeRequest> {
    if args.bool("keys-only") && args.bool("count-only") {
        let text = "`--keys-only` and `--count-only` cannot be set at the same time, choose one";
        return Err(Failure::bad_args(text));
    }
    let (key, range_end) = keys(args, "get", false)?;
    let serializable = match args.string("consistency") {
        "l" => false,
        "s" => true,
        other => return Err(Failure::bad_feature(format!("unknown consistency flag {}", go::quote(other.as_bytes())))),
    };
    let order = match args.string("order").to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::bad_feature(format!("bad sort order {}", args.string("order")))),
    };
    let target = match args.string("sort-by").to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::bad_feature(format!("bad sort target {}", args.string("sort-by")))),
    };
    // Keys come in ascending order anyhow: asking for it would only cost the server a sort.
    let order = if (order, target) == (SortOrder::Ascend, SortTarget::Key) { SortOrder::None } else { order };
    let bounds = |what: &str| {
        let (min, max) = (args.int(&format!("min-{what}-rev")), args.int(&format!("max-{what}-rev")));
        match min > max && max != 0 {
            true => Err(Failure::bad_feature(format!("--min-{what}-rev {min} is above --max-{what}-rev {max}"))),
            false => Ok((min, max)),
        }
    };
    let (min_create_revision, max_create_revision) = bounds("create")?;
    let (min_mod_revision, max_mod_revision) = bounds("mod")?;
    Ok(RangeRequest {
        key,
        range_end,
        limit: args.int("limit"),
        revision: args.int("rev").max(0),
        sort_order: order.into(),
        sort_target: target.into(),
        serializable,
        keys_only: args.bool("keys-only"),
        count_only: args.bool("count-only"),
        min_mod_revision,
        max_mod_revision,
        min_create_revision,
        max_create_revision,
    })
}

/// `del`.
pub(super) async fn del(context: &Context) -> Result<()> {
    let request = delete_request(&context.args)?;
    if let ([key, end], false) = (context.args.words(), context.args.bool("range")) {
        eprintln!("Warning: all keys in [{key}, {end}) are about to be deleted; --range says that this is meant.");
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let response = context.client()?.delete_range(request).await?;
    context.printer.show(&response)
}

/// The request of a `del`.
pub(super) fn delete_request(args: &Args) -> Result<DeleteRangeRequest> {
    let (key, range_end) = keys(args, "del", args.bool("range"))?;
    Ok(DeleteRangeRequest { key, range_end, prev_kv: args.bool("prev-kv") })
}

/// The key or range that the arguments and flags mean.
fn keys(args: &Args, command: &str, range: bool) -> Result<(Bytes, Bytes)> {
    let (prefix, from_key) = (args.bool("prefix"), args.bool("from-key"));
    if prefix && from_key {
        let text = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
        return Err(Failure::bad_args(text));
    }
    let words = match args.words() {
        [key, end, ..] if command == "get" => &[key.clone(), end.clone()][..],
        words => words,
    };
    match words {
        [_, _] if prefix || from_key => Err(Failure::bad_args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        )),
        [_] if range => Err(Failure::bad_args("--range needs a second key")),
        [key, end] => Ok((Bytes::from(key.clone()), Bytes::from(end.clone()))),
        [key] if prefix => Ok(prefix_range(key)),
        [key] if from_key => {
            let key = if key.is_empty() { "\0" } else { key };
            Ok((Bytes::from(key.to_owned()), Bytes::from_static(b"\0")))
        }
        [key] => Ok((Bytes::from(key.clone()), Bytes::new())),
        _ => Err(Failure::bad_args(format!(
            "{command} command needs one argument as key and an optional argument as range_end"
        ))),
    }
}

/// The range of all keys that begin with `key`.
pub(super) fn prefix_range(key: &str) -> (Bytes, Bytes) {
    if key.is_empty() {
        return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
    }
    (Bytes::from(key.to_owned()), Bytes::from(prefix_end(key.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(words: &[&str]) -> Result<RangeRequest> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        range_request(&Args::parse(GET_FLAGS, &words).unwrap())
    }

    #[test]
    fn ranges_follow_prefix_and_from_key() {
        let range = |words: &[&str]| get(words).map(|r| (r.key.to_vec(), r.range_end.to_vec())).unwrap();
        assert_eq!(range(&["a"]), (b"a".to_vec(), vec![]));
        assert_eq!(range(&["a", "c"]), (b"a".to_vec(), b"c".to_vec()));
        assert_eq!(range(&["az", "--prefix"]), (b"az".to_vec(), b"a{".to_vec()));
        assert_eq!(range(&["", "--prefix"]), (vec![0], vec![0]));
        assert_eq!(range(&["b", "--from-key"]), (b"b".to_vec(), vec![0]));
        assert_eq!(range(&["", "--from-key"]), (vec![0], vec![0]));
    }

    #[test]
    fn bad_gets_end_with_etcdctls_codes() {
        let cases: [(&[&str], u8); 8] = [
            (&[], 128),
            (&["a", "b", "--prefix"], 128),
            (&["a", "--prefix", "--from-key"], 128),
            (&["a", "--keys-only", "--count-only"], 128),
            (&["a", "--order", "x"], 4),
            (&["a", "--sort-by", "x"], 4),
            (&["a", "--consistency", "x"], 4),
            (&["a", "--min-mod-rev", "3", "--max-mod-rev", "2"], 4),
        ];
        for (words, code) in cases {
            assert_eq!(get(words).unwrap_err().code, code, "{words:?}");
        }
    }

    #[test]
    fn sorting_by_ascending_keys_is_left_to_the_store() {
        let sort = |words: &[&str]| get(words).map(|r| (r.sort_order(), r.sort_target())).unwrap();
        assert_eq!(sort(&["a", "--order", "ascend"]), (SortOrder::None, SortTarget::Key));
        assert_eq!(sort(&["a", "--sort-by", "modify"]), (SortOrder::None, SortTarget::Mod));
        assert_eq!(sort(&["a", "--order=DESCEND", "--sort-by=VALUE"]), (SortOrder::Descend, SortTarget::Value));
    }
}
