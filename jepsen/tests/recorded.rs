//! Histories recorded elsewhere, with verdicts known before this project. (testdata/LICENSE.md)

use std::fs;
use std::path::Path;

use quorate_jepsen::linearize::{Call, Failure, check, kv, register};

fn testdata(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn verdicts_are_those_known() {
    let verdicts = testdata("verdicts.tsv");
    let mut checked = 0;
    for line in verdicts.lines().skip(1) {
        let mut words = line.split('\t');
        let (file, verdict) = (words.next().unwrap(), words.next().unwrap());
        let log = testdata(file);
        let result = if file.starts_with("jepsen/") {
            check(&register::Register, &register::parse(&log).unwrap(), 20_000_000)
        } else {
            check(&kv::Strings, &kv::parse(&log).unwrap(), 20_000_000)
        };
        let expected = match verdict {
            "linearizable" => true,
            "not-linearizable" => false,
            other => panic!("{file}: {other}"),
        };
        assert!(!matches!(result, Err(Failure::Undecided)), "{file}");
        assert_eq!(result.is_ok(), expected, "{file}: {result:?}");
        checked += 1;
    }
    assert_eq!(checked, 57);
}

#[test]
fn counterexample_names_the_call_that_fits_nowhere() {
    let call = |op, invoked, returned| Call { op, invoked, returned: Some(returned) };
    let stale = [
        call(register::Op::Write(1), 0, 1),
        call(register::Op::Write(2), 2, 3),
        call(register::Op::Read(Some(1)), 4, 5),
    ];
    let Err(Failure::NotLinearizable(found)) = check(&register::Register, &stale, 1000) else {
        panic!("a stale read must be seen")
    };
    assert_eq!((found.longest, found.stuck), (vec![0, 1], 2));
}

#[test]
fn search_stops_where_it_is_told_to() {
    let calls = kv::parse(&testdata("kv/c10-ok.txt")).unwrap();
    assert_eq!(check(&kv::Strings, &calls, 10), Err(Failure::Undecided));
}
