//! Fuzz target `snapshot` as an ordinary test: every committed input, and each of them with small changes.
//!
//! `UPDATE=1 cargo test` writes the inputs that are made here (`made-*`); those that fuzzing found stay.

#[allow(unreachable_pub)] // a program's module over there
#[path = "../../fuzz/src/snapshot.rs"]
mod fuzz;
#[path = "../../core/tests/support/corpus.rs"]
mod support;

use prost::Message as _;
use quorate_api::mvccpb::KeyValue;
use quorate_core::rng::Rng;
use quorate_node::bolt::Writer;
use support::corpus;

/// The pages of a file with `puts` puts of few keys, a delete, a lease, a user, a role and an alarm.
fn made(puts: i64) -> Vec<u8> {
    let mut keys: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let rev = |main: i64, mark: &[u8]| [&main.to_be_bytes()[..], b"_", &[0; 8], mark].concat();
    for n in 0..puts {
        let (main, version, key) = (n + 2, n / 3 + 1, vec![b'a' + (n % 3) as u8]);
        let (create_revision, lease) = (n % 3 + 2, if n % 3 == 1 { 7 } else { 0 });
        let (key, value) = (key.into(), vec![b'v'; 40].into());
        let kv = KeyValue { key, create_revision, mod_revision: main, version, value, lease };
        keys.push((rev(main, b""), kv.encode_to_vec()));
    }
    keys.push((rev(puts + 2, b"t"), KeyValue { key: "a".into(), ..KeyValue::default() }.encode_to_vec()));
    let small: [(&[u8], &[u8], &[u8]); 5] = [
        (b"alarm", b"\x08\x07\x10\x01", b""),
        (b"auth", b"authRevision", &[0, 0, 0, 0, 0, 0, 0, 4]),
        (b"authRoles", b"r", b"\x0a\x01r\x12\x05\x08\x02\x12\x01a"),
        (b"authUsers", b"u", b"\x0a\x01u\x12\x01h\x1a\x01r"),
        (b"lease", &[0, 0, 0, 0, 0, 0, 0, 7], b"\x08\x07\x10\x3c"),
    ];
    let lay = |mut writer: Writer, plans: bool| {
        let put = |writer: &mut Writer, key: &[u8], value: &[u8]| {
            if plans { writer.plan(key, value.len()) } else { writer.put(key, value) }
        };
        for (bucket, key, value) in small {
            if bucket == b"lease" {
                writer.bucket(b"key");
                keys.iter().for_each(|(key, value)| put(&mut writer, key, value));
            }
            writer.bucket(bucket);
            put(&mut writer, key, value);
        }
        writer.bucket(b"meta");
        put(&mut writer, b"finishedCompactRev", &rev(3, b""));
        (writer.finish(), writer.take())
    };
    let (plan, _) = lay(Writer::planning(), true);
    let file = lay(Writer::new(plan), false).1;
    // Zeros at the end come back by themselves.
    let end = file.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    file[3 * 4096..end].to_vec()
}

#[test]
fn snapshot() {
    let inputs = corpus("snapshot", [0, 1, 7, 100].into_iter().map(made).collect());
    let mut rng = Rng::new(0);
    fuzz::snapshot(&[]);
    for input in inputs {
        fuzz::snapshot(&input);
        for _ in 0..300 {
            let mut bytes = input.clone();
            for _ in 0..=rng.below(3) {
                let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
                // Where the numbers are, mostly.
                let at = if rng.below(2) == 0 { at } else { at / 4096 * 4096 + at % 200 };
                bytes.iter_mut().skip(at).take(1).for_each(|old| *old = u8::try_from(rng.below(256)).unwrap());
            }
            fuzz::snapshot(&bytes);
        }
    }
}
