//! Scenario files: text in, what really happened out; they must agree.

use std::{env, fs};

/// Runs every file of `testdata/<folder>` in order of name. `UPDATE=1` rewrites what happened instead of comparing it.
pub(crate) fn happen_as_written(folder: &str, run: impl Fn(&str) -> String) {
    let folder = format!("{}/testdata/{folder}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{folder}");
    for path in paths {
        eprintln!("{}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        let happened = run(&text);
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, happened).unwrap();
        } else {
            assert_eq!(happened, text, "{}", path.display());
        }
    }
}
