//! The power goes while a member forgets: whatever is left, it does not take itself for new.

use quorate_core::entry::{Configuration, Entry, HardState, Payload, Record, Standing};
use quorate_core::format::wal::Damage;
use quorate_core::rng::Rng;
use quorate_core::{ClusterId, Incarnation, LogIndex, NodeId, Term};
use quorate_node::boot::{BootError, Booted, Found, Told, boot, forget};
use quorate_node::disk::Disk as _;
use quorate_node::wal::{Options, Wal};
use quorate_sim::disk::SimDisk;

/// Of few records each.
const OPTIONS: Options = Options { segment_bytes: 1_000 };

/// A founder that began alone. `life` is what it draws for its disk if that has none.
fn founder(life: u64) -> Told {
    Told {
        cluster: ClusterId(1),
        member: NodeId(1),
        voters: vec![NodeId(1)],
        incarnation: Incarnation(life),
        joins: false,
        in_force: None,
    }
}

fn start(disk: &SimDisk, life: u64) -> Result<Booted<SimDisk>, BootError> {
    boot(|| Ok(disk.clone()), OPTIONS, &founder(life))
}

/// The log of a founder whose cluster has grown to three, with `entries` more entries.
fn grown(entries: u64) -> SimDisk {
    let disk = SimDisk::new();
    let mut wal: Wal<SimDisk> = start(&disk, 1).unwrap().wal;
    let config =
        Configuration { voters: (1..=3).map(|id| (NodeId(id), Incarnation(id))).collect(), ..Configuration::default() };
    for index in (1..=1 + entries).map(LogIndex) {
        let payload =
            if index.0 == 1 { Payload::Config(config.clone()) } else { Payload::Command(vec![7; 100].into()) };
        let commit = LogIndex(index.0 - 1);
        let hard_state = HardState { term: Term(1), vote: None, commit };
        wal.append(&[Record::HardState(hard_state), Record::Entry(Entry { term: Term(1), index, payload })]).unwrap();
        wal.sync().unwrap();
    }
    disk
}

fn segments(disk: &SimDisk) -> usize {
    disk.clone().list().unwrap().iter().filter(|name| name.ends_with(".wal")).count()
}

/// `cut` has just ended the former life, or was to. Gives whether it did.
fn check(disk: &SimDisk, entries: u64, text: &str) -> bool {
    let booted = start(disk, 3).unwrap_or_else(|error| panic!("{text}: {error}"));
    let is_old = booted.recovered.identity.incarnation == Incarnation(1);
    if is_old {
        assert_eq!((booted.found, booted.recovered.entries.len() as u64), (Found::Log, entries + 1), "{text}");
    } else {
        assert_eq!(booted.recovered.identity.standing, Standing::Amnesiac, "{text}");
        assert_eq!(booted.recovered.entries, [], "{text}");
    }
    let again = start(disk, 4).unwrap();
    assert_eq!((again.found, again.recovered), (Found::Log, booted.recovered), "{text}: what it is lasts");
    !is_old
}

#[test]
fn whatever_a_power_cut_leaves_of_forgetting_is_the_old_log_or_an_amnesiac() {
    for entries in [0, 30] {
        let (mut kept, mut forgotten) = (0, 0);
        for changes in 0..30 {
            for seed in 0..20 {
                let (disk, rng) = (grown(entries), &mut Rng::new(seed));
                assert_eq!(segments(&disk) > 2, entries > 0);
                disk.set_fuse(changes);
                let _ = forget(disk.clone(), OPTIONS, &founder(2), Damage::Fenced);
                disk.power_cut(rng);
                // And once more, in the start after that.
                disk.set_fuse(rng.below(10) as u32);
                let _ = start(&disk, 2);
                disk.heal();
                disk.power_cut(rng);
                let text = format!("{entries} entries, after {changes} changes, seed {seed}");
                *(if check(&disk, entries, &text) { &mut forgotten } else { &mut kept }) += 1;
            }
        }
        assert!(kept > 20 && forgotten > 50, "{kept} {forgotten}");
    }
}
