//! The log against power cuts, crashes and damage, on a disk that keeps no more than the trait promises.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_core::entry::{Entry, Payload, Standing};
use quorate_core::rng::Rng;
use quorate_core::{Blob, ClusterId, Generation, Incarnation, NodeId, Term};

use super::*;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A folder whose unsynced bytes and names survive a power cut as chance has it.
#[derive(Clone, Debug, Default)]
struct CrashDisk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync of the folder.
    changes: Vec<Change>,
    /// If not 0: the power goes at the so manieth change from now.
    fuse: u64,
    /// Nothing can be reserved, though some bytes would fit.
    is_nearly_full: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => drop(names.remove(name)),
        }
    }
}

impl CrashDisk {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let file = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(&mut self.files[*file])
    }

    fn burn(&mut self) -> io::Result<()> {
        self.fuse = self.fuse.saturating_sub(1);
        if self.fuse == 1 { Err(io::Error::other("the power goes")) } else { Ok(()) }
    }

    fn power_cut(&mut self, rng: &mut Rng) {
        self.fuse = 0;
        for change in std::mem::take(&mut self.changes) {
            if rng.chance(1, 2) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for (number, file) in self.files.iter_mut().enumerate() {
            if !self.names.values().any(|named| *named == number) {
                *file = File::default();
                continue;
            }
            let len = if rng.chance(1, 2) { file.bytes.len() } else { file.durable.len() };
            let mut bytes = file.durable.clone();
            bytes.resize(bytes.len().max(file.bytes.len()), 0);
            for (page, new) in file.bytes.chunks(PAGE).enumerate() {
                let torn = rng.chance(1, 4);
                let keep = rng.chance(1, 2);
                for (sector, new) in new.chunks(SECTOR).enumerate() {
                    if if torn { rng.chance(1, 2) } else { keep } {
                        let at = page * PAGE + sector * SECTOR;
                        bytes[at..at + new.len()].copy_from_slice(new);
                    }
                }
            }
            bytes.truncate(len.max(file.durable.len()));
            file.bytes.clone_from(&bytes);
            file.durable = bytes;
        }
    }
}

impl Disk for CrashDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.names.keys().cloned().collect())
    }
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.file(name)?.bytes.clone())
    }
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.burn()?;
        if self.is_nearly_full && bytes > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.files.push(File { bytes: vec![0; usize::try_from(bytes).unwrap()], durable: Vec::new() });
        self.change(Change::Create(name.into(), self.files.len() - 1));
        Ok(())
    }
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.burn()?;
        let (file, offset) = (self.file(name)?, usize::try_from(offset).unwrap());
        file.bytes.resize(file.bytes.len().max(offset + bytes.len()), 0);
        file.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn truncate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.burn()?;
        self.file(name)?.bytes.truncate(usize::try_from(bytes).unwrap());
        Ok(())
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        let file = self.file(name)?;
        file.durable.clone_from(&file.bytes);
        Ok(())
    }
    fn sync_dir(&mut self) -> io::Result<()> {
        self.burn()?;
        self.changes.clear();
        self.durable_names = self.names.clone();
        Ok(())
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.burn()?;
        self.change(Change::Rename(from.into(), to.into()));
        Ok(())
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.burn()?;
        self.change(Change::Remove(name.into()));
        Ok(())
    }
}

fn identity(standing: Standing) -> Identity {
    Identity { cluster: ClusterId(7), member: NodeId(1), incarnation: Incarnation(5), standing }
}

fn config(member: u64) -> Configuration {
    Configuration { voters: BTreeMap::from([(NodeId(member), Incarnation(5))]), ..Configuration::default() }
}

fn empty() -> Recovered {
    Recovered {
        identity: identity(Standing::Fresh),
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config: config(1),
        entries: Vec::new(),
        generation: Generation::first(Incarnation(5)),
    }
}

fn create(disk: CrashDisk, options: Options) -> Wal<CrashDisk> {
    Wal::create(disk, options, &identity(Standing::Fresh), &HardState::default(), &config(1)).unwrap()
}

/// What a log of `record` after `state` says, too simple to be wrong.
fn fold(mut state: Recovered, record: &Record) -> Recovered {
    match record.clone() {
        Record::Identity(identity) => state.identity = identity,
        Record::HardState(hard_state) => state.hard_state = hard_state,
        Record::Entry(entry) => {
            state.entries.retain(|old| old.index < entry.index);
            state.entries.push(entry);
        }
        Record::Compact { index, term, config } => {
            state.entries.retain(|old| old.index > index);
            (state.start_index, state.start_term, state.config) = (index, term, config);
        }
        Record::Snapshot { index, term, config, generation } => {
            state = Recovered { start_index: index, start_term: term, config, generation, entries: vec![], ..state };
        }
    }
    state
}

fn any_record(state: &Recovered, rng: &mut Rng) -> Record {
    let (start, last) = (state.start_index.0, state.start_index.0 + state.entries.len() as u64);
    let term = Term(rng.below(100));
    match rng.below(20) {
        0 => Record::Identity(identity(if rng.chance(1, 2) { Standing::Trusted } else { Standing::Amnesiac })),
        1..5 => Record::HardState(HardState { term, vote: Some(NodeId(1)), commit: LogIndex(last) }),
        5 => {
            let index = LogIndex(start + rng.below(last - start + 1));
            Record::Compact { index, term, config: config(2) }
        }
        6 if rng.chance(1, 3) => {
            let (index, generation) = (LogIndex(last.saturating_sub(3) + rng.below(10)), Generation(rng.below(9)));
            Record::Snapshot { index, term, config: config(3), generation }
        }
        _ => {
            let back = if rng.chance(1, 8) { rng.below(last - start + 1) } else { 0 };
            let len = if rng.chance(1, 10) { rng.below(12_000) } else { rng.below(60) };
            let command: Vec<u8> = (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
            let payload = Payload::Command(Blob::from(command));
            Record::Entry(Entry { term, index: LogIndex(last + 1 - back), payload })
        }
    }
}

/// A log, and what it said after each record since it was last opened.
struct Run {
    rng: Rng,
    options: Options,
    wal: Wal<CrashDisk>,
    states: Vec<Recovered>,
    /// `states[..=synced]` must survive anything.
    synced: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let options = Options { segment_bytes: [1, 300, 3_000, 20_000][usize::try_from(rng.below(4)).unwrap()] };
        let wal = create(CrashDisk::default(), options);
        Self { rng, options, wal, states: vec![empty()], synced: 0 }
    }

    fn append(&mut self) -> io::Result<()> {
        let mut records = Vec::new();
        for _ in 0..=self.rng.below(4) {
            let state = self.states.last().unwrap();
            let record = any_record(state, &mut self.rng);
            self.states.push(fold(state.clone(), &record));
            records.push(record);
        }
        let (segment, before) = (self.wal.segment.sequence(), self.states.len() - 1 - records.len());
        self.wal.append(&records)?;
        if self.wal.segment.sequence() > segment {
            self.synced = before;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.wal.sync()?;
        self.synced = self.states.len() - 1;
        Ok(())
    }

    fn step(&mut self) {
        if self.rng.chance(1, 12) {
            self.wal.disk.fuse = 2 + self.rng.below(12);
        }
        let done = match self.rng.below(16) {
            0..8 => self.append(),
            8..12 => self.sync(),
            12 => self.wal.mark(),
            13 => self.wal.release(),
            14 => {
                self.reopen(true);
                Ok(())
            }
            _ => {
                self.reopen(false);
                Ok(())
            }
        };
        if done.is_err() {
            self.reopen(true);
        } else if !self.wal.dirty {
            self.synced = self.states.len() - 1;
        }
    }

    fn reopen(&mut self, power_cut: bool) {
        let mut disk = self.wal.disk.clone();
        disk.fuse = 0;
        if power_cut {
            disk.power_cut(&mut self.rng);
        }
        let mut survives = if power_cut { self.synced } else { self.states.len() - 1 }; // the page cache
        // Opening is interrupted now and then, too.
        while self.rng.chance(1, 4) {
            let mut interrupted = disk.clone();
            interrupted.fuse = 2 + self.rng.below(10);
            if let Err(WalError::Damage(damage)) = Wal::open(&mut interrupted, self.options) {
                panic!("a power cut is no damage: {damage}");
            }
            interrupted.power_cut(&mut self.rng);
            disk = interrupted;
            survives = self.synced;
        }
        let (wal, recovered) = Wal::open(disk, self.options).expect("a power cut is no damage");
        let possible = &self.states[survives..];
        assert!(possible.contains(&recovered), "not a prefix that keeps what was synced: {recovered:?}");
        (self.wal, self.states, self.synced) = (wal, vec![recovered], 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn power_cuts_leave_a_prefix_with_everything_synced(seed: u64, steps in 1..200_u32) {
        let mut run = Run::new(seed);
        for _ in 0..steps {
            run.step();
        }
        run.reopen(true);
    }

    #[test]
    fn damage_to_what_was_synced_and_marked_is_never_taken_for_a_torn_tail(seed: u64, steps in 1..60_u32) {
        let mut run = Run::new(seed);
        for _ in 0..steps {
            run.step();
        }
        run.wal.disk.fuse = 0;
        run.sync().unwrap();
        run.wal.mark().unwrap();
        let marked = run.wal.disk.clone();
        for _ in 0..20 {
            let mut disk = marked.clone();
            let chain: Vec<String> = disk.names.keys().filter(|name| sequence(name).is_some()).cloned().collect();
            let pick = |rng: &mut Rng, len: usize| usize::try_from(rng.below(len as u64)).unwrap();
            let name = &chain[pick(&mut run.rng, chain.len())];
            let newest = chain.last() == Some(name);
            let bytes = &mut disk.file(name).unwrap().bytes;
            // The mark itself, at the end of the newest segment, is not proven by anything.
            let end = if newest { run.wal.segment.end() as usize - 16 } else { bytes.len() };
            if run.rng.chance(1, 2) {
                let at = pick(&mut run.rng, end);
                bytes[at] ^= 1 << run.rng.below(8);
            } else {
                let (from, to) = (pick(&mut run.rng, end) / PAGE * PAGE, pick(&mut run.rng, end) / PAGE * PAGE);
                let page = bytes[from..(from + PAGE).min(end)].to_vec();
                let len = page.len().min(end - to);
                bytes[to..to + len].copy_from_slice(&page[..len]);
            }
            match Wal::open(disk, run.options) {
                Err(WalError::Damage(_)) => {}
                Ok((_, recovered)) => prop_assert_eq!(&recovered, run.states.last().unwrap()), // hit padding
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Room for the records of the tests below.
const SMALL: Options = Options { segment_bytes: 4_096 };

fn entry(index: u64) -> Record {
    Record::Entry(Entry { term: Term(1), index: LogIndex(index), payload: Payload::Command("some command".into()) })
}

#[test]
fn damage_names_file_and_offset() {
    let mut wal = create(CrashDisk::default(), SMALL);
    let mut offsets = Vec::new();
    for index in 1..=3 {
        offsets.push(wal.segment.end() as usize);
        wal.append(&[entry(index)]).unwrap();
        wal.sync().unwrap();
    }
    let mut disk = wal.into_disk();
    disk.file("0000000000000001.wal").unwrap().bytes[offsets[1] + 20] ^= 1;
    let error = Wal::open(disk.clone(), SMALL).unwrap_err();
    let expected = format!("file 0000000000000001.wal: damaged record at byte offset {}", offsets[1]);
    assert!(error.to_string().contains(&expected), "{error}");

    for aside in 1..=2 {
        let (wal, n) = replace(disk, SMALL).unwrap();
        assert_eq!(n, aside);
        disk = wal.into_disk();
    }
    assert!(disk.names.contains_key("0000000000000001.wal.damaged-1"));
    assert!(disk.names.contains_key("0000000000000001.wal.damaged-2"));
}

fn replace(disk: CrashDisk, options: Options) -> io::Result<(Wal<CrashDisk>, u64)> {
    Wal::replace(disk, options, &identity(Standing::Amnesiac), &HardState::default(), &config(1))
}

#[test]
fn a_log_that_is_replaced_is_there_as_it_was_or_not_believed_any_more() {
    let options = Options { segment_bytes: 1_000 };
    let mut wal = create(CrashDisk::default(), options);
    for index in 1..=60 {
        wal.append(&[entry(index)]).unwrap();
        wal.sync().unwrap();
    }
    let disk = wal.into_disk();
    let before = Wal::open(disk.clone(), options).unwrap().1;
    let (mut as_it_was, mut begun, mut done) = (0, 0, 0);
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut disk = disk.clone();
        disk.fuse = 2 + rng.below(20);
        // The disk is the same one, and what a process left of it the next one finds.
        let _ = Wal::replace(&mut disk, options, &identity(Standing::Amnesiac), &HardState::default(), &config(1));
        disk.power_cut(&mut rng);
        assert!(exists(&mut disk).unwrap());
        if rng.chance(1, 2) {
            disk.fuse = 2 + rng.below(14);
            let _ = finish_replacing(&mut disk);
            disk.power_cut(&mut rng);
        }
        let is_finished = finish_replacing(&mut disk).unwrap().is_some();
        let found = Wal::open(disk, options).unwrap().1;
        if found == before {
            assert!(!is_finished);
            as_it_was += 1;
        } else {
            assert_eq!((found.identity.standing, found.entries.len()), (Standing::Amnesiac, 0));
            *(if is_finished { &mut begun } else { &mut done }) += 1;
        }
    }
    assert!(as_it_was > 20 && begun > 50 && done > 20, "{as_it_was} {begun} {done}");
}

#[test]
fn records_longer_than_a_segment_are_kept() {
    let options = Options { segment_bytes: 1_000 };
    let mut wal = create(CrashDisk::default(), options);
    let command = Payload::Command(Blob::from(vec![1; 10_000]));
    for index in 1..=5 {
        let record = Record::Entry(Entry { term: Term(1), index: LogIndex(index), payload: command.clone() });
        wal.append(&[record]).unwrap();
    }
    let (_, recovered) = Wal::open(wal.into_disk(), options).unwrap();
    assert_eq!(recovered.entries.len(), 5);
}

#[test]
fn segments_below_a_compaction_go_and_the_log_stays() {
    let options = Options { segment_bytes: 500 };
    let mut wal = create(CrashDisk::default(), options);
    for index in 1..=100 {
        wal.append(&[entry(index)]).unwrap();
    }
    let before = wal.disk.names.len();
    wal.append(&[Record::Compact { index: LogIndex(90), term: Term(1), config: config(2) }]).unwrap();
    wal.release().unwrap();
    assert!(before >= 8 && wal.disk.names.len() < 5, "{before} files, then {}", wal.disk.names.len());
    let (wal, recovered) = Wal::open(wal.into_disk(), options).unwrap();
    assert_eq!(recovered.entries.len(), 10);

    // A segment in the middle of the chain is gone: that is noticed, whatever the others say.
    let mut disk = wal.into_disk();
    let chain: Vec<String> = disk.names.keys().filter(|name| sequence(name).is_some()).cloned().collect();
    disk.names.remove(&chain[chain.len() - 2]);
    assert!(matches!(Wal::open(disk, options), Err(WalError::Damage(Damage::Missing { .. }))));
}

/// It used up what was reserved at the first start, and did not start again.
#[test]
fn a_log_goes_on_where_no_whole_segment_fits() {
    let options = Options { segment_bytes: 500 };
    let mut wal = create(CrashDisk::default(), options);
    wal.disk.is_nearly_full = true;
    for start in 1..=5 {
        let (opened, recovered) = Wal::open(wal.into_disk(), options).unwrap();
        assert_eq!(recovered.entries.len(), (start - 1) * 20);
        wal = opened;
        for index in recovered.entries.len() + 1..=start * 20 {
            wal.append(&[entry(index as u64)]).unwrap();
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let mut wal = create(CrashDisk::default(), SMALL);
    wal.append(&[entry(1)]).unwrap();
    wal.disk.fuse = 2;
    assert!(wal.sync().is_err());
    assert!(wal.disk.sync("0000000000000001.wal").is_ok(), "like Linux, the disk reports the error once");
    assert!(wal.sync().is_err());
    assert!(wal.append(&[entry(2)]).is_err());
}

/// A log of one segment that ends with two entries of equal length, and the offsets of their frames.
fn two_entries(term: u64) -> (CrashDisk, [usize; 2]) {
    let mut wal = create(CrashDisk::default(), SMALL);
    let hard_state = HardState { term: Term(term), vote: None, commit: LogIndex(0) };
    wal.append(&[Record::HardState(hard_state)]).unwrap();
    let offsets = [1, 2].map(|index| {
        let offset = wal.segment.end() as usize;
        wal.append(&[entry(index)]).unwrap();
        offset
    });
    wal.sync().unwrap();
    wal.mark().unwrap();
    (wal.into_disk(), offsets)
}

#[test]
fn a_frame_in_anothers_place_is_no_frame() {
    let (mut disk, [first, second]) = two_entries(1);
    let bytes = &mut disk.file("0000000000000001.wal").unwrap().bytes;
    bytes.copy_within(first..second, second);
    assert!(matches!(Wal::open(disk, SMALL), Err(WalError::Damage(Damage::Record { .. }))));
}

#[test]
fn a_segment_of_another_log_does_not_continue_this_one() {
    let options = Options { segment_bytes: 1 };
    let log = |term| {
        let (disk, _) = two_entries(term);
        Wal::open(disk, options).unwrap().0.into_disk()
    };
    let (mut ours, mut theirs) = (log(1), log(3));
    let second = "0000000000000002.wal";
    ours.file(second).unwrap().bytes.clone_from(&theirs.file(second).unwrap().bytes);
    let error = Wal::open(ours, options).unwrap_err();
    assert!(matches!(error, WalError::Damage(Damage::Discontinuous { segment: 2 })), "{error}");
}
