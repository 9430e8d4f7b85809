//! The committed inputs of the fuzz targets.

use std::fs;
use std::path::PathBuf;

/// Every input of `target`; `made` are those that its test makes itself, and writes with `UPDATE=1`.
pub(crate) fn corpus(target: &str, made: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in made.iter().enumerate() {
            fs::write(folder.join(format!("made-{number}")), bytes).unwrap();
        }
    }
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= made.len(), "the corpus of {target} is incomplete: run with UPDATE=1");
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}
