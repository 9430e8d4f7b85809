//! fjall keeps the backend's crash contract: a child process commits batches, is killed at a random moment, and every
//! file that was not synced by then is dropped, cut, torn, zeroed or filled with garbage, as a power cut may do.
//!
//! What is synced was read from fjall's source and checked with strace: tables and manifests (`keyspaces/*/tables/*`,
//! `v*`, `current`) before anything refers to them. So the unsynced files are the journal and whatever the manifest
//! does not list. Then it goes on: write, flush, compact, reopen, against a model; old rows must never come back.
#![cfg(feature = "server")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use quorate_core::rng::Rng;
use quorate_core::rows::{ROW_KEY_BYTES_MAX, RowWrite, Rows};
use quorate_core::{Blob, Generation, LogIndex};
use quorate_node::backend::fjall::{FjallBackend, FjallBackends, Options};
use quorate_node::backend::{Backend, Backends, Filling};

const GENERATION: Generation = Generation(3);
const OPTIONS: Options = Options { memtable_bytes: 48 << 10, cache_bytes: 1 << 20 };
const APPLIED: &[u8] = b"applied";

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What distinguishes this life's batches from those of another: a lost batch is followed by a different one.
#[derive(Clone, Copy)]
struct Life {
    seed: u64,
    round: u64,
}

impl Life {
    fn batch(self, applied: u64) -> Vec<RowWrite> {
        let mut rng = Rng::new(self.seed).split(self.round).split(applied);
        let mut rows = BTreeMap::from([(APPLIED.to_vec(), Some(applied.to_be_bytes().to_vec()))]);
        for _ in 0..rng.below(12) {
            let number = rng.below(150);
            let mut key = format!("key {number:03}").into_bytes();
            if number == 7 {
                key.resize(ROW_KEY_BYTES_MAX - usize::try_from(applied % 3).unwrap(), b'.');
            }
            let len = usize::try_from(if rng.chance(1, 20) { rng.below(20_000) } else { rng.below(500) }).unwrap();
            let value = (!rng.chance(1, 3)).then(|| {
                let mut value = format!("{} {applied} ", self.round).into_bytes();
                value.resize(value.len().max(len), u8::try_from(rng.below(256)).unwrap());
                value
            });
            rows.insert(key, value);
        }
        rows.into_iter().map(|(key, value)| RowWrite { key: key.into(), value: value.map(Blob::from) }).collect()
    }

    fn apply(self, applied: u64, model: &mut Model) {
        for RowWrite { key, value } in self.batch(applied) {
            match value {
                Some(value) => drop(model.insert(key.to_vec(), value.to_vec())),
                None => drop(model.remove(&key[..])),
            }
        }
    }
}

fn applied(rows: &dyn Rows) -> LogIndex {
    LogIndex(rows.get(APPLIED).map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap())))
}

fn open(folder: &Path) -> FjallBackend {
    FjallBackends::new(folder, OPTIONS).unwrap().open(GENERATION, &applied).unwrap()
}

fn rows(backend: &FjallBackend) -> Model {
    let mut rows = Model::new();
    backend.snapshot().scan(&[], &[0xFF; 3], &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    rows
}

fn assert_rows(backend: &FjallBackend, model: &Model, when: &str) {
    let rows = rows(backend);
    let keys: BTreeSet<_> = rows.keys().chain(model.keys()).collect();
    for key in keys {
        let name = String::from_utf8_lossy(&key[..key.len().min(20)]);
        assert!(rows.get(key) == model.get(key), "{when}: {name} is not what it was");
        assert!(backend.snapshot().get(key).as_deref() == rows.get(key).map(|value| &value[..]), "{when}: get {name}");
    }
}

/// Not a test: what the child process does, until it is killed.
#[test]
fn child() {
    let Ok(arguments) = std::env::var("QUORATE_BACKEND_CHILD") else { return };
    let [seed, round, folder] = arguments.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{arguments}") };
    let life = Life { seed: seed.parse().unwrap(), round: round.parse().unwrap() };
    let mut backend = open(Path::new(folder));
    let mut rng = Rng::new(life.seed).split(life.round);
    let mut durable = LogIndex(0);
    for index in backend.durable().0 + 1.. {
        backend.commit(LogIndex(index), &life.batch(index)).unwrap();
        if rng.chance(1, 60) {
            backend.flush().unwrap();
        }
        durable = durable.max(backend.durable());
        println!("\nat {index} {durable}");
        std::io::stdout().flush().unwrap();
    }
}

/// Runs the child for a while and kills it. Gives the last batch it told of and the last durable mark.
fn run_child(life: Life, folder: &Path, time: Duration) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env("QUORATE_BACKEND_CHILD", format!("{} {} {}", life.seed, life.round, folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut committed, mut durable) = (0, 0);
    let mut deadline = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let Some(numbers) = line.strip_prefix("at ") else { continue };
        let Some((index, mark)) = numbers.split_once(' ') else { continue };
        let (Ok(index), Ok(mark)) = (index.parse(), mark.parse()) else { continue };
        (committed, durable) = (index, mark);
        if Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + time) {
            child.kill().unwrap();
        }
    }
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "the child failed by itself: {status}");
    (committed, durable)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files of the database in `folder` that its manifest refers to, relative to it.
fn synced_files(folder: &Path) -> BTreeSet<PathBuf> {
    let copy = tempfile::tempdir().unwrap();
    for file in files(folder) {
        let target = copy.path().join(file.strip_prefix(folder).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if file.extension().is_some_and(|extension| extension == "jnl") {
            fs::write(target, []).unwrap();
        } else {
            fs::copy(&file, target).unwrap();
        }
    }
    // Opening removes what the manifest does not list. Without threads nothing else happens.
    drop(fjall::Database::builder(copy.path()).worker_threads_unchecked(0).open().unwrap());
    let listed = files(copy.path()).into_iter().filter(|file| file.extension().is_none_or(|ext| ext != "jnl"));
    listed.map(|file| file.strip_prefix(copy.path()).unwrap().to_owned()).collect()
}

/// Does to every unsynced file what a power cut may do. Gives how many files it changed.
fn power_cut(folder: &Path, rng: &mut Rng) -> usize {
    const PAGE: usize = 4096;
    const SECTOR: usize = 512;
    let synced = synced_files(folder);
    let mut changed = 0;
    for file in files(folder) {
        if synced.contains(file.strip_prefix(folder).unwrap()) {
            continue;
        }
        changed += 1;
        let mut bytes = fs::read(&file).unwrap();
        bytes.truncate(1 << 20); // the journal is 64 MiB of nothing
        match rng.below(4) {
            0 => {
                fs::remove_file(&file).unwrap();
                continue;
            }
            1 => bytes.truncate(usize::try_from(rng.below(bytes.len() as u64 + 1)).unwrap()),
            2 => {
                for (page, bytes) in bytes.chunks_mut(PAGE).enumerate() {
                    for bytes in bytes.chunks_mut(SECTOR).skip(page % 3) {
                        if rng.chance(1, 3) {
                            bytes.fill(0);
                        }
                    }
                }
            }
            _ => bytes.iter_mut().for_each(|byte| *byte ^= u8::try_from(rng.below(256)).unwrap()),
        }
        fs::write(&file, bytes).unwrap();
    }
    changed
}

fn torture(seed: u64) {
    let rounds: u64 = std::env::var("QUORATE_CRASH_ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join(GENERATION.to_string());
    let mut rng = Rng::new(seed);
    let (mut model, mut last) = (Model::new(), 0);
    let mut lost = 0;
    for round in 0..rounds {
        let life = Life { seed, round: 2 * round };
        let time = Duration::from_millis(rng.below(150));
        let (committed, durable) = run_child(life, folder.path(), time);
        let changed = power_cut(&database, &mut rng);
        assert!(changed > 0, "there is always a journal");

        let mut backend = open(folder.path());
        let recovered = backend.durable().0;
        assert!(recovered >= durable, "durable at {durable}, then only {recovered}");
        assert!(recovered <= committed + 1 && recovered >= last, "{recovered} is not in {last}..={}", committed + 1);
        lost += committed.saturating_sub(recovered);
        for index in last + 1..=recovered {
            life.apply(index, &mut model);
        }
        assert_rows(&backend, &model, "after the cut");

        let life = Life { seed, round: 2 * round + 1 };
        last = recovered + 40;
        for index in recovered + 1..=last {
            backend.commit(LogIndex(index), &life.batch(index)).unwrap();
            life.apply(index, &mut model);
        }
        assert_rows(&backend, &model, "after more batches");
        backend.flush().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        while backend.durable() < LogIndex(last) {
            assert!(Instant::now() < patience, "nothing is flushed");
            std::thread::sleep(Duration::from_millis(1));
        }
        backend.defragment().unwrap()().unwrap();
        assert_rows(&backend, &model, "after compaction");
        drop(backend);
        let backend = open(folder.path());
        assert_eq!(backend.durable(), LogIndex(last));
        assert_rows(&backend, &model, "after reopening");
    }
    assert!(lost > 0, "no cut ever lost anything: the test is too kind");
}

#[test]
fn a_power_cut_leaves_a_prefix_of_the_batches_1() {
    torture(1);
}

#[test]
fn a_power_cut_leaves_a_prefix_of_the_batches_2() {
    torture(2);
}

#[test]
fn a_generation_counts_once_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let mut backends = FjallBackends::new(folder.path(), OPTIONS).unwrap();
    let mut first = backends.open(Generation(0), &applied).unwrap();
    assert_eq!(first.durable(), LogIndex(0));
    first.commit(LogIndex(1), &Life { seed: 1, round: 1 }.batch(1)).unwrap();
    let reader = first.snapshot();

    let mut half = backends.fill(Generation(1)).unwrap();
    half.row(b"row", b"of a snapshot that breaks off").unwrap();
    drop(half);
    assert_eq!(applied(&backends.open(Generation(1), &applied).unwrap().snapshot()), LogIndex(0));

    let mut filling = backends.fill(Generation(2)).unwrap();
    let long_key = vec![b'l'; ROW_KEY_BYTES_MAX];
    filling.row(APPLIED, &77_u64.to_be_bytes()).unwrap();
    filling.row(&long_key, b"long").unwrap();
    for number in 0..40_000_u64 {
        filling.row(format!("row {number:08}").as_bytes(), &[1; 1_000]).unwrap();
    }
    filling.finish().unwrap();
    let second = backends.open(Generation(2), &applied).unwrap();
    assert_eq!(second.durable(), LogIndex(77));
    assert_eq!(rows(&second).len(), 40_002);
    assert_eq!(second.snapshot().get(&long_key).as_deref(), Some(&b"long"[..]));

    // Readers of the old generation read on until they are done; then it goes.
    drop(first);
    backends.retain(Generation(2)).unwrap();
    assert_eq!(applied(&reader), LogIndex(1));
    assert!(folder.path().join("0").is_dir());
    drop(reader);
    assert!(!folder.path().join("0").exists());
    assert!(!folder.path().join("1").exists());
}

#[test]
fn a_snapshot_keeps_what_it_saw() {
    let folder = tempfile::tempdir().unwrap();
    let mut backend = open(folder.path());
    let life = Life { seed: 5, round: 5 };
    let mut model = Model::new();
    for index in 1..=100 {
        backend.commit(LogIndex(index), &life.batch(index)).unwrap();
        life.apply(index, &mut model);
    }
    let snapshot = backend.snapshot();
    for index in 101..=400 {
        backend.commit(LogIndex(index), &life.batch(index)).unwrap();
    }
    backend.flush().unwrap();
    backend.defragment().unwrap()().unwrap();
    let mut seen = Model::new();
    snapshot.scan(&[], &[0xFF; 3], &mut |key, value| {
        seen.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    });
    assert!(seen == model);
    let mut first = Vec::new();
    snapshot.scan(b"key 0", b"key 1", &mut |key, _| {
        first.push(key.to_vec());
        if first.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(first.len(), 3);
    snapshot.scan(b"z", b"a", &mut |_, _| panic!("an empty range has no rows"));
}
