//! From whatever a member finds on its disk to a running log: fresh, recovered, or come back without its memory.

use std::io;

use quorate_core::entry::{Configuration, HardState, Identity, Recovered, Standing};
use quorate_core::format::wal::Damage;
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
    /// The initial voters, itself among them.
    pub voters: Vec<NodeId>,
    /// Drawn at random at every start: the member's incarnation if its disk holds none.
    pub incarnation: Incarnation,
}

/// What a member found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is new, or its disk was lost.
    Nothing,
    /// Its log, sound.
    Log,
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
    /// The data dir is another cluster's or another member's.
    #[error(
        "the data directory belongs to member {member:x} of cluster {cluster:x}, not to member {told_member:x} of \
         cluster {told_cluster:x}: use another directory, or the flags it was created with"
    )]
    Foreign {
        /// Whose it is.
        cluster: u64,
        /// Whose it is.
        member: u64,
        /// As told.
        told_cluster: u64,
        /// As told.
        told_member: u64,
    },
    /// The file system failed.
    #[error("the write-ahead log: {0}")]
    Io(#[from] io::Error),
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

/// Opens the log on the disk that `open` gives, or begins one.
///
/// A damaged log of a member whose cluster can restore it (three voters or more) is moved aside, never deleted, and the
/// member begins as an amnesiac.
///
/// # Errors
/// See [`BootError`]; nothing was changed then.
pub fn boot<D: Disk>(
    mut open: impl FnMut() -> io::Result<D>,
    options: wal::Options,
    told: &Told,
) -> Result<Booted<D>, BootError> {
    let mut disk = open()?;
    if !wal::exists(&mut disk)? {
        return begin(disk, options, told, Standing::Fresh, Found::Nothing);
    }
    match Wal::open(disk, options) {
        Ok((wal, recovered)) => {
            let Identity { cluster, member, .. } = recovered.identity;
            if (cluster, member) != (told.cluster, told.member) {
                return Err(BootError::Foreign {
                    cluster: cluster.0,
                    member: member.0,
                    told_cluster: told.cluster.0,
                    told_member: told.member.0,
                });
            }
            Ok(Booted { wal, recovered, found: Found::Log })
        }
        Err(WalError::Io(error)) => Err(error.into()),
        Err(WalError::Damage(damage)) if matches!(damage, Damage::Newer { .. }) || told.voters.len() < 3 => {
            Err(BootError::Damage(damage))
        }
        Err(WalError::Damage(damage)) => forget(open()?, options, told, damage),
    }
}

/// Moves the log aside and begins as an amnesiac: for a log that is damaged, or whose applied state is lost.
///
/// # Errors
/// The file system failed.
pub fn forget<D: Disk>(
    mut disk: D,
    options: wal::Options,
    told: &Told,
    damage: Damage,
) -> Result<Booted<D>, BootError> {
    let aside = wal::move_aside(&mut disk)?;
    begin(disk, options, told, Standing::Amnesiac, Found::Damaged { damage, aside })
}

fn begin<D: Disk>(
    disk: D,
    options: wal::Options,
    told: &Told,
    standing: Standing,
    found: Found,
) -> Result<Booted<D>, BootError> {
    let identity = Identity { cluster: told.cluster, member: told.member, incarnation: told.incarnation, standing };
    // Nobody knows the others' incarnations yet: no message can carry this one.
    let mut config = Configuration {
        voters: told.voters.iter().map(|&voter| (voter, Incarnation(0))).collect(),
        ..Configuration::default()
    };
    if standing == Standing::Fresh {
        config.voters.insert(told.member, told.incarnation);
    }
    let hard_state = HardState::default();
    let wal = match Wal::create(disk, options, &identity, &hard_state, &config) {
        Ok(wal) => wal,
        Err(WalError::Io(error)) => return Err(error.into()),
        Err(WalError::Damage(damage)) => return Err(BootError::Damage(damage)),
    };
    let recovered = Recovered {
        generation: Generation::first(identity.incarnation),
        identity,
        hard_state,
        start_index: LogIndex(0),
        start_term: Term(0),
        config,
        entries: Vec::new(),
    };
    Ok(Booted { wal, recovered, found })
}
