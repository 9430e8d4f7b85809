//! From whatever a member finds on its disk to a running log: fresh, recovered, or come back without its memory.

use std::collections::BTreeMap;
use std::io;

use quorate_core::entry::{Configuration, HardState, Identity, Payload, RESTORED, Record, Recovered, Standing};
use quorate_core::format::wal::{Damage, Remains};
use quorate_core::mutant::{self, Mutant};
use quorate_core::{ClusterId, Generation, Incarnation, LogIndex, NodeId, Term};

use crate::disk::Disk;
use crate::wal::{self, Wal, WalError};

/// Who a member is told to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The cluster's ID.
    pub cluster: ClusterId,
    /// Its own ID.
    pub member: NodeId,
    /// The initial voters, or those that a running cluster tells of; itself among them unless it is a learner.
    pub voters: Vec<NodeId>,
    /// Drawn at random at every start: the member's incarnation if its disk holds none.
    pub incarnation: Incarnation,
    /// Without a log it joins a cluster that runs already: it has no part in how that began.
    pub joins: bool,
    /// The sets of voters each of which may be needed now, as one of the others says; `None` if nobody was asked.
    pub in_force: Option<Vec<Vec<NodeId>>>,
}

impl Told {
    /// The same to the member that a log names.
    #[must_use]
    pub fn named(&self, identity: &Identity) -> Self {
        Self { cluster: identity.cluster, member: identity.member, ..self.clone() }
    }

    /// Whether one of the others says that they can give `member` back what it has lost; `None` if nobody was asked.
    fn is_restorable(&self, member: NodeId) -> Option<bool> {
        let sets = self.in_force.as_ref()?;
        Some(!sets.is_empty() && sets.iter().all(|voters| can_restore(voters.iter(), member)))
    }
}

/// What a member found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is new, or its disk was lost.
    Nothing,
    /// Its log, sound.
    Log,
    /// What it began when it was to forget, and did not get done with: the rest of its former log now lies beside under this
    /// number.
    Forgotten {
        /// The suffix of the files moved aside.
        aside: u64,
    },
    /// A log that cannot be believed, which now lies beside under this number.
    Damaged {
        /// What was wrong.
        damage: Damage,
        /// The suffix of the files moved aside.
        aside: u64,
    },
}

/// Why a member cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// There is nobody to restore the log from, or it was written by a newer version.
    #[error("the write-ahead log cannot be used: {0}")]
    Damage(Damage),
    /// The file system failed.
    #[error("the write-ahead log: {0}")]
    Io(#[from] io::Error),
}

impl BootError {
    /// Whether the member might start, if the others could restore it.
    #[must_use]
    pub fn may_be_restored(&self) -> bool {
        matches!(self, Self::Damage(damage) if !matches!(damage, Damage::Newer { .. }))
    }
}

/// A log, open for appending, and what it says.
#[derive(Debug)]
pub struct Booted<D> {
    /// The log.
    pub wal: Wal<D>,
    /// What it says.
    pub recovered: Recovered,
    /// How that came about.
    pub found: Found,
}

/// Whether the others can give `member` back what it has lost. A voter counts again once two others vouch for it, a quorum
/// of three; a learner needs one to learn from.
fn can_restore<'a>(voters: impl Iterator<Item = &'a NodeId>, member: NodeId) -> bool {
    let (own, others): (Vec<&NodeId>, Vec<&NodeId>) = voters.partition(|id| **id == member);
    others.len() >= if own.is_empty() { 1 } else { 2 }
}

fn restores(config: &Configuration, member: NodeId) -> bool {
    let restores = |voters: &BTreeMap<NodeId, Incarnation>| can_restore(voters.keys(), member);
    restores(&config.voters) && (config.outgoing.is_empty() || restores(&config.outgoing))
}

/// Whether the others can give a member back what its log holds, by what that says. Every configuration counts that may be
/// in force: what readmits the member has to be committed by the committed one, whatever its own log has got to.
#[must_use]
pub fn is_restorable(recovered: &Recovered) -> bool {
    since_commit(recovered).all(|config| restores(config, recovered.identity.member))
}

/// Whether a member may give up its log: if that says that the others can restore it, and so does whoever was asked. The
/// log of one that has joined may end before it was a voter, so for that somebody has to be asked.
#[must_use]
pub fn can_forget(told: &Told, recovered: &Recovered) -> bool {
    is_restorable(recovered) && told.is_restorable(recovered.identity.member).unwrap_or(!told.joins)
}

/// The same of a damaged log. What cannot be read of it may say anything: unless that is little, somebody has to be asked.
fn can_give_up(told: &Told, remains: Option<&Remains>) -> bool {
    let member = remains.map_or(told.member, |remains| remains.identity.member);
    match remains.and_then(Remains::in_force) {
        Some(mut configs) => {
            configs.all(|config| restores(config, member)) && told.is_restorable(member).unwrap_or(!told.joins)
        }
        None => told.is_restorable(member).unwrap_or(false),
    }
}

/// The configuration at the commit index that the log hints at, and those after it.
fn since_commit(recovered: &Recovered) -> impl Iterator<Item = &Configuration> {
    let commit = recovered.hard_state.commit;
    let mut is_before = false;
    configurations(recovered)
        .take_while(move |(index, _)| !std::mem::replace(&mut is_before, *index <= commit))
        .map(|(_, config)| config)
}

/// The configurations in the log, last first, and where they stand.
fn configurations(recovered: &Recovered) -> impl Iterator<Item = (LogIndex, &Configuration)> {
    let configs = recovered.entries.iter().rev().filter_map(|entry| match &entry.payload {
        Payload::Config(config) => Some((entry.index, config)),
        Payload::Empty | Payload::Command(_) => None,
    });
    configs.chain([(recovered.start_index, &recovered.config)])
}

/// Where the last configuration of the log stands.
#[must_use]
pub fn config_index(recovered: &Recovered) -> LogIndex {
    configurations(recovered).next().expect("the last one is always there").0
}

/// Whether the log says, beyond doubt, that its member was removed. `applied` is the applied index. A member that was
/// removed by an entry which is not known to be committed may still be needed to commit it.
#[must_use]
pub fn is_removed(recovered: &Recovered, applied: LogIndex) -> bool {
    let (index, config) = configurations(recovered).next().expect("the last one is always there");
    index > LogIndex(0)
        && index <= applied.max(recovered.hard_state.commit)
        && config.members().all(|(member, _)| member != recovered.identity.member)
}

/// Opens the log on the disk that `open` gives, or begins one. Who a member is, its log says, even a damaged one; what it
/// is told otherwise does not matter then. (etcd)
///
/// A damaged log of a member whose cluster can restore it is moved aside, never deleted, and the member begins as an
/// amnesiac. Whether it can, that part of the log says that can be read, and whoever was asked; the command line may be of
/// long ago.
///
/// # Errors
/// See [`BootError`]; nothing was changed then.
pub fn boot<D: Disk>(
    mut open: impl FnMut() -> io::Result<D>,
    options: wal::Options,
    told: &Told,
) -> Result<Booted<D>, BootError> {
    let mut disk = open()?;
    let forgotten = wal::finish_replacing(&mut disk)?;
    if !wal::exists(&mut disk)? {
        let standing = if told.joins { Standing::Amnesiac } else { Standing::Fresh };
        return begin(disk, options, told, standing);
    }
    match Wal::open(disk, options) {
        Ok((wal, recovered)) => {
            let found = forgotten.map_or(Found::Log, |aside| Found::Forgotten { aside });
            Ok(Booted { wal, recovered, found })
        }
        Err(WalError::Io(error)) => Err(error.into()),
        Err(WalError::Damage(newer @ Damage::Newer { .. })) => Err(BootError::Damage(newer)),
        Err(WalError::Damage(damage)) => {
            let mut disk = open()?;
            let remains = wal::remains(&mut disk)?;
            if !can_give_up(told, remains.as_ref()) {
                return Err(BootError::Damage(damage));
            }
            let told = remains.map_or_else(|| told.clone(), |remains| told.named(&remains.identity));
            forget(disk, options, &told, damage)
        }
    }
}

/// Checks that the log meets the applied state, which has got to index `applied`: it must go on from there, and cannot
/// end before, since only durable entries are applied. A log whose last durable records look like a torn tail, because
/// they are damaged and no mark was written since, is often found out here.
///
/// # Errors
/// Entries are missing between the two.
pub fn check_applied(recovered: &Recovered, applied: LogIndex) -> Result<(), Damage> {
    let start = recovered.start_index;
    let last = LogIndex(start.0 + recovered.entries.len() as u64);
    if applied < start {
        return Err(Damage::Missing { first: applied.next(), last: start });
    }
    if applied > last {
        return Err(Damage::Missing { first: last.next(), last: applied });
    }
    Ok(())
}

/// Whether an applied state that cannot be used may be moved aside: the log goes back to its beginning, or the others can
/// restore what is lost.
#[must_use]
pub fn may_lose_state(told: &Told, recovered: &Recovered) -> bool {
    let can_do_without = || if counts(recovered) { is_restorable(recovered) } else { can_forget(told, recovered) };
    recovered.start_index == LogIndex(0) || can_do_without()
}

/// Others may need what the log promises. They say themselves when they can do without.
fn counts(recovered: &Recovered) -> bool {
    recovered.identity.standing == Standing::Trusted
}

/// How a member goes on from its log and its applied state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// With both.
    Whole,
    /// With its log alone: that is sound, and somebody may need what it promised. The state ends before the log begins.
    Bare(Damage),
    /// With neither: entries are lost, or nobody needs what there is. See [`forget`].
    Anew(Damage),
}

/// How a member goes on whose applied state has got to index `applied`.
///
/// # Errors
/// The two do not meet, and nobody can restore what is missing.
pub fn course(told: &Told, recovered: &Recovered, applied: LogIndex) -> Result<Course, Damage> {
    let Err(missing) = check_applied(recovered, applied) else { return Ok(Course::Whole) };
    let is_log_sound = applied < recovered.start_index && !mutant::is_on(Mutant::H06);
    if is_log_sound && counts(recovered) && is_restorable(recovered) {
        return Ok(Course::Bare(missing));
    }
    if can_forget(told, recovered) { Ok(Course::Anew(missing)) } else { Err(missing) }
}

/// Moves the log aside and begins as an amnesiac: for a log that is damaged, or whose applied state is lost. If a crash cuts
/// it short, the next [`boot`] finds either the log as it was or an amnesiac's: never nothing, or a part.
///
/// # Errors
/// The file system failed.
pub fn forget<D: Disk>(disk: D, options: wal::Options, told: &Told, damage: Damage) -> Result<Booted<D>, BootError> {
    let recovered = new_life(told, Standing::Amnesiac);
    let Recovered { identity, hard_state, config, .. } = &recovered;
    let (wal, aside) = Wal::replace(disk, options, identity, hard_state, config)?;
    Ok(Booted { wal, recovered, found: Found::Damaged { damage, aside } })
}

/// Where the applied state of a new life belongs.
#[must_use]
pub fn generation(told: &Told) -> Generation {
    Generation::first(told.incarnation)
}

/// Begins the log of a member that was given its applied state, up to [`RESTORED`], in folder [`generation`]. Like any new
/// member it is to ask the others whether they are new, too. Durable on return.
///
/// # Errors
/// The file system failed; or there is a log already.
pub fn begin_restored<D: Disk>(disk: D, options: wal::Options, told: &Told) -> Result<(), BootError> {
    let Booted { mut wal, recovered, .. } = begin(disk, options, told, Standing::Fresh)?;
    let Recovered { config, generation, .. } = recovered;
    let (index, term) = RESTORED;
    wal.append(&[Record::Snapshot { index, term, config, generation }])?;
    wal.sync()?;
    Ok(())
}

fn begin<D: Disk>(disk: D, options: wal::Options, told: &Told, standing: Standing) -> Result<Booted<D>, BootError> {
    let recovered = new_life(told, standing);
    let Recovered { identity, hard_state, config, .. } = &recovered;
    let wal = match Wal::create(disk, options, identity, hard_state, config) {
        Ok(wal) => wal,
        Err(WalError::Io(error)) => return Err(error.into()),
        Err(WalError::Damage(damage)) => return Err(BootError::Damage(damage)),
    };
    Ok(Booted { wal, recovered, found: Found::Nothing })
}

/// What the log of a new life says at its beginning.
fn new_life(told: &Told, standing: Standing) -> Recovered {
    let identity = Identity { cluster: told.cluster, member: told.member, incarnation: told.incarnation, standing };
    // Nobody knows the others' incarnations yet: no message can carry this one.
    let mut config = Configuration {
        voters: told.voters.iter().map(|&voter| (voter, Incarnation(0))).collect(),
        ..Configuration::default()
    };
    if standing == Standing::Fresh {
        config.voters.insert(told.member, told.incarnation);
    }
    Recovered {
        generation: Generation::first(identity.incarnation),
        identity,
        hard_state: HardState::default(),
        start_index: LogIndex(0),
        start_term: Term(0),
        config,
        entries: Vec::new(),
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use std::path::Path;

    use quorate_core::Term;
    use quorate_core::entry::Entry;

    use super::*;
    use crate::disk::file::FileDisk;

    fn told(voters: u64, incarnation: u64) -> Told {
        Told {
            cluster: quorate_core::ClusterId(1),
            member: quorate_core::NodeId(1),
            voters: (1..=voters).map(quorate_core::NodeId).collect(),
            incarnation: Incarnation(incarnation),
            joins: false,
            in_force: None,
        }
    }

    const OPTIONS: wal::Options = wal::Options { segment_bytes: 64 << 10 };

    fn start(folder: &Path, voters: u64, incarnation: u64) -> Result<Booted<FileDisk>, BootError> {
        boot(|| FileDisk::new(folder), OPTIONS, &told(voters, incarnation))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names = FileDisk::new(folder).unwrap().list().unwrap();
        names.sort();
        names
    }

    /// Synced entries, each committed by the next one, behind what the log holds.
    fn write(wal: &mut Wal<FileDisk>, payloads: impl IntoIterator<Item = Payload>) {
        for payload in payloads {
            let commit = wal.last_index();
            wal.append(&[
                Record::HardState(HardState { commit, ..HardState::default() }),
                Record::Entry(Entry { term: Term(1), index: commit.next(), payload }),
            ])
            .unwrap();
            wal.sync().unwrap();
        }
    }

    fn command() -> Payload {
        Payload::Command("a command of some length".into())
    }

    fn voters(ids: std::ops::RangeInclusive<u64>) -> Configuration {
        let voters = ids.map(|id| (NodeId(id), Incarnation(6))).collect();
        Configuration { voters, ..Configuration::default() }
    }

    /// Flips a bit of the first `text` in a segment.
    fn damage(folder: &Path, segment: &str, text: &[u8]) {
        let file = folder.join(segment);
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
        bytes[at] ^= 1;
        std::fs::write(file, bytes).unwrap();
    }

    const FIRST: &str = "0000000000000001.wal";
    /// The first bytes of a segment.
    const MAGIC: &[u8] = b"QuorWAL";

    /// A log with synced entries, the first of whose commands is then damaged.
    fn damaged_log(folder: &Path, voters: u64) {
        damaged_log_of(folder, voters, Payload::Empty);
    }

    /// With `first` before all that, committed.
    fn damaged_log_of(folder: &Path, voters: u64, first: Payload) {
        write(&mut start(folder, voters, 6).unwrap().wal, [first, command(), command()]);
        damage(folder, FIRST, b"a command");
    }

    /// What `told` makes of the log: whose it is then, and since when; `None` if it is refused, and left alone.
    fn given_up(folder: &Path, told: &Told) -> Option<Identity> {
        let before = names(folder);
        let booted = boot(|| FileDisk::new(folder), OPTIONS, told);
        if booted.is_err() {
            assert!(matches!(booted, Err(BootError::Damage(_))));
            assert_eq!(names(folder), before);
        }
        booted.ok().map(|booted| booted.recovered.identity)
    }

    #[test]
    fn a_damaged_log_that_nobody_can_restore_is_refused_and_left_alone() {
        for voters in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            damaged_log(folder.path(), voters);
            let before = names(folder.path());
            let error = start(folder.path(), voters, 7).unwrap_err().to_string();
            assert!(error.contains("file 0000000000000001.wal: damaged record at byte offset"), "{error}");
            assert_eq!(names(folder.path()), before);
        }
    }

    #[test]
    fn a_damaged_log_that_others_can_restore_is_moved_aside_for_a_new_life() {
        let folder = tempfile::tempdir().unwrap();
        damaged_log(folder.path(), 3);
        let booted = start(folder.path(), 3, 8).unwrap();
        assert!(matches!(booted.found, Found::Damaged { aside: 1, .. }));
        assert_eq!(booted.recovered.identity.standing, Standing::Amnesiac);
        assert_eq!(booted.recovered.identity.incarnation, Incarnation(8));
        assert_ne!(booted.recovered.generation, Generation::first(Incarnation(6)), "the old state is not its own");
        assert!(names(folder.path()).contains(&"0000000000000001.wal.damaged-1".to_owned()));
        let expected = booted.recovered.clone();
        drop(booted);
        assert_eq!(start(folder.path(), 3, 9).unwrap().recovered, expected, "the new life lasts");
    }

    /// It has moved: its command line makes it another member, of another cluster.
    #[test]
    fn whose_a_damaged_log_is_it_says_itself() {
        for (size, is_restorable) in [(1, false), (2, false), (3, true)] {
            let folder = tempfile::tempdir().unwrap();
            damaged_log(folder.path(), size);
            let moved = Told { cluster: ClusterId(7), member: NodeId(9), ..told(size, 8) };
            let moved = Told { voters: vec![NodeId(9), NodeId(2), NodeId(3)], ..moved };
            let standing = Standing::Amnesiac;
            let own = Identity { cluster: ClusterId(1), member: NodeId(1), incarnation: Incarnation(8), standing };
            assert_eq!(given_up(folder.path(), &moved), is_restorable.then_some(own), "{size} voters");
        }
    }

    #[test]
    fn whom_nothing_tells_who_decides_gives_up_no_log_on_its_own() {
        let asked = |voters: &[&[u64]]| {
            let sets = voters.iter().map(|ids| ids.iter().copied().map(NodeId).collect()).collect();
            Told { cluster: ClusterId(7), member: NodeId(9), in_force: Some(sets), ..told(3, 8) }
        };
        for segments in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            // Three founders, of whom one is left; and a bit of what said so has rotted.
            let mut wal = start(folder, 3, 6).unwrap().wal;
            write(&mut wal, [Payload::Config(voters(1..=1)), command()]);
            for _ in 1..segments {
                drop(wal);
                wal = start(folder, 3, 7).unwrap().wal;
                write(&mut wal, [command()]);
            }
            damage(folder, FIRST, MAGIC);
            assert_eq!(given_up(folder, &told(3, 8)), None);
            assert_eq!(given_up(folder, &asked(&[])), None);
            assert_eq!(given_up(folder, &asked(&[&[1, 2, 3, 4], &[1, 9]])), None);
            let member = if segments == 1 { NodeId(9) } else { NodeId(1) };
            let given_up = given_up(folder, &asked(&[&[1, 2, 3, 9]])).map(|identity| identity.member);
            assert_eq!(given_up, Some(member), "any header says whose it is");
        }
    }

    #[test]
    fn what_a_damaged_log_says_behind_the_damage_counts() {
        for (last, is_restorable) in [(voters(1..=1), false), (voters(1..=3), true)] {
            let folder = tempfile::tempdir().unwrap();
            let mut wal = start(folder.path(), 3, 6).unwrap().wal;
            write(&mut wal, [command(), Payload::Config(last), Payload::Empty]);
            damage(folder.path(), FIRST, b"a command");
            assert_eq!(given_up(folder.path(), &told(3, 8)).is_some(), is_restorable);
        }
    }

    #[test]
    fn what_was_in_a_segment_that_cannot_be_read_does_not_matter_behind_a_compaction() {
        for (size, is_restorable) in [(1, false), (3, true)] {
            let folder = tempfile::tempdir().unwrap();
            let mut wal = start(folder.path(), 5, 6).unwrap().wal;
            write(&mut wal, [command(), command()]);
            drop(wal);
            let mut wal = start(folder.path(), 5, 7).unwrap().wal;
            write(&mut wal, [command()]);
            let config = voters(1..=size);
            wal.append(&[Record::Compact { index: LogIndex(3), term: Term(1), config }]).unwrap();
            write(&mut wal, [command()]);
            damage(folder.path(), FIRST, MAGIC);
            assert_eq!(given_up(folder.path(), &told(5, 8)).is_some(), is_restorable, "{size}");
        }
    }

    /// An added voter is a learner inside until it has caught up.
    #[test]
    fn a_member_that_joined_gives_up_a_log_only_if_whoever_decides_can_restore_it() {
        let folder = tempfile::tempdir().unwrap();
        damaged_log(folder.path(), 3);
        let joined = |in_force| Told { joins: true, in_force, ..told(0, 8) };
        let sets = |voters: &[&[u64]]| Some(voters.iter().map(|it| it.iter().copied().map(NodeId).collect()).collect());
        assert_eq!(given_up(folder.path(), &joined(None)), None);
        assert_eq!(given_up(folder.path(), &joined(sets(&[&[1, 2]]))), None);
        assert!(given_up(folder.path(), &joined(sets(&[&[1, 2, 3]]))).is_some());
        let folder = tempfile::tempdir().unwrap();
        damaged_log(folder.path(), 2);
        assert_eq!(given_up(folder.path(), &joined(sets(&[&[1, 2, 3]]))), None, "its log knows better");
    }

    #[test]
    fn a_learner_is_restored_by_a_single_voter_and_a_voter_by_two() {
        let of = |member: u64, voters: &[u64]| {
            let voters: Vec<NodeId> = voters.iter().copied().map(NodeId).collect();
            can_restore(voters.iter(), NodeId(member))
        };
        assert!(of(9, &[1]) && of(1, &[1, 2, 3]));
        assert!(!of(1, &[1, 2]) && !of(1, &[1]) && !of(9, &[]));
    }

    #[test]
    fn a_member_is_removed_once_the_entry_that_says_so_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let mut recovered = start(folder.path(), 2, 1).unwrap().recovered;
        let voters = |ids: &[u64]| ids.iter().map(|id| (quorate_core::NodeId(*id), Incarnation(1))).collect();
        let joint = Configuration { voters: voters(&[2]), outgoing: voters(&[1, 2]), ..Configuration::default() };
        let last = Configuration { voters: voters(&[2]), ..Configuration::default() };
        for (index, config) in [(1, joint), (2, last)] {
            let payload = Payload::Config(config);
            recovered.entries.push(Entry { term: Term(1), index: LogIndex(index), payload });
        }
        assert!(!is_removed(&recovered, LogIndex(1)), "the other one may need its vote");
        assert!(is_removed(&recovered, LogIndex(2)));
        recovered.entries.pop();
        assert!(!is_removed(&recovered, LogIndex(1)));
    }

    #[test]
    fn what_a_cluster_of_one_has_lost_nobody_can_restore_whoever_founded_it() {
        let folder = tempfile::tempdir().unwrap();
        let told = told(3, 1);
        let mut recovered = start(folder.path(), 3, 1).unwrap().recovered;
        assert!(can_forget(&told, &recovered));
        let voters = |ids: std::ops::RangeInclusive<u64>| ids.map(|id| (NodeId(id), Incarnation(1))).collect();
        for (index, (of, restorable)) in
            [(1..=2, false), (1..=1, false), (1..=5, true), (2..=2, true)].into_iter().enumerate()
        {
            let config = Configuration { voters: voters(of.clone()), ..Configuration::default() };
            let (index, payload) = (LogIndex(index as u64 + 1), Payload::Config(config));
            recovered.entries.push(Entry { term: Term(1), index, payload });
            recovered.hard_state.commit = index;
            assert_eq!(can_forget(&told, &recovered), restorable, "{of:?}");
        }
        recovered.hard_state.commit = LogIndex(2);
        assert!(!can_forget(&told, &recovered), "a cluster of one may be what is in force");
        recovered.hard_state.commit = LogIndex(4);
        assert!(can_forget(&told, &recovered));
        let asked = |voters: &[u64]| {
            let voters = voters.iter().copied().map(NodeId).collect();
            Told { in_force: Some(vec![voters]), ..told.clone() }
        };
        assert!(can_forget(&asked(&[1, 2, 3]), &recovered));
        assert!(!can_forget(&asked(&[1, 2]), &recovered), "whoever was asked knows of two");
        assert!(!can_forget(&Told { joins: true, ..told.clone() }, &recovered), "somebody has to be asked");
    }

    #[test]
    fn a_third_voter_counts_once_it_is_sure_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let told = told(2, 1);
        let mut recovered = start(folder.path(), 2, 1).unwrap().recovered;
        let voters = |ids: std::ops::RangeInclusive<u64>| ids.map(|id| (NodeId(id), Incarnation(1))).collect();
        let joint = Configuration { voters: voters(1..=3), outgoing: voters(1..=2), ..Configuration::default() };
        let last = Configuration { voters: voters(1..=3), ..Configuration::default() };
        for (index, config) in [(1, joint), (2, last)] {
            let payload = Payload::Config(config);
            recovered.entries.push(Entry { term: Term(1), index: LogIndex(index), payload });
        }
        for (commit, restorable) in [(0, false), (1, false), (2, true)] {
            recovered.hard_state.commit = LogIndex(commit);
            assert_eq!(can_forget(&told, &recovered), restorable, "committed up to {commit}");
        }
    }

    #[test]
    fn who_can_restore_a_damaged_log_its_beginning_knows_better_than_the_command_line() {
        for (founders, grown) in [(3, 1), (1, 3)] {
            let folder = tempfile::tempdir().unwrap();
            let voters = (1..=grown).map(|id| (NodeId(id), Incarnation(6))).collect();
            let config = Configuration { voters, ..Configuration::default() };
            damaged_log_of(folder.path(), founders, Payload::Config(config));
            let booted = start(folder.path(), founders, 7);
            assert_eq!(booted.is_ok(), grown == 3, "{founders} founders, then {grown}: {booted:?}");
        }
    }

    #[test]
    fn a_sound_log_is_kept_without_its_state_as_long_as_it_counts_and_somebody_can_restore_that() {
        let course_of = |size: u64, standing: Standing, applied: u64| {
            let folder = tempfile::tempdir().unwrap();
            let mut recovered = start(folder.path(), size, 1).unwrap().recovered;
            (recovered.identity.standing, recovered.start_index) = (standing, LogIndex(10));
            recovered.config = voters(1..=size);
            recovered.entries = vec![Entry { term: Term(1), index: LogIndex(11), payload: Payload::Empty }];
            course(&told(size, 1), &recovered, LogIndex(applied))
        };
        let missing = |first, last| Damage::Missing { first: LogIndex(first), last: LogIndex(last) };
        for applied in [10, 11] {
            assert_eq!(course_of(1, Standing::Trusted, applied), Ok(Course::Whole));
        }
        assert_eq!(course_of(3, Standing::Trusted, 0), Ok(Course::Bare(missing(1, 10))));
        assert_eq!(course_of(3, Standing::Amnesiac, 0), Ok(Course::Anew(missing(1, 10))), "nobody needs it");
        assert_eq!(course_of(3, Standing::Trusted, 15), Ok(Course::Anew(missing(12, 15))), "it is not sound");
        assert_eq!(course_of(2, Standing::Trusted, 0), Err(missing(1, 10)), "nobody can");
    }

    #[test]
    fn a_log_that_does_not_meet_the_applied_state_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut recovered = start(folder.path(), 1, 1).unwrap().recovered;
        recovered.start_index = LogIndex(10);
        recovered.entries = vec![Entry { term: Term(1), index: LogIndex(11), payload: Payload::Empty }];
        assert_eq!(check_applied(&recovered, LogIndex(10)), Ok(()));
        assert_eq!(check_applied(&recovered, LogIndex(11)), Ok(()));
        let missing = |first, last| Err(Damage::Missing { first: LogIndex(first), last: LogIndex(last) });
        assert_eq!(check_applied(&recovered, LogIndex(7)), missing(8, 10));
        assert_eq!(check_applied(&recovered, LogIndex(15)), missing(12, 15));
    }
}
