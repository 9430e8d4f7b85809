//! Snapshot files: `snapshot restore`, `snapshot status`. Neither asks a server. (etcdutl)

use std::path::PathBuf;

use quorate_node::config::Founding;
use quorate_node::restore::{Restore, restore as make};
use quorate_node::snapshot::{DiskFile, status as read};

use crate::commands::Context;
use crate::failure::{Failure, Result};
use crate::flags::Flag;

pub(super) const RESTORE_FLAGS: &[Flag] = &[
    Flag::int("bump-revision", "0", "how much to increase the latest revision after restore"),
    Flag::string("data-dir", "", "the data directory to make; <name>.etcd if none is given"),
    Flag::string("initial-advertise-peer-urls", "http://localhost:2380", "this member's peer URLs"),
    Flag::string("initial-cluster", "default=http://localhost:2380", "all members of the restored cluster"),
    Flag::string("initial-cluster-token", "etcd-cluster", "tells the restored cluster from others"),
    Flag::int("initial-memory-map-size", "10737418240", "has no effect here"),
    Flag::bool("mark-compacted", "nothing before the restored state can be read or watched; goes with --bump-revision"),
    Flag::string("name", "default", "this member's name in the cluster"),
    Flag::bool("skip-hash-check", "take a file without a checksum, as it is in etcd's data directory"),
    Flag::string("wal-dir", "", "not supported"),
];

/// etcd writes its database every 100 ms; what it has acknowledged since is in its log alone, which is not read here.
const FOLDER_WARNING: &str = "Warning: of a data directory only the database is read, not the log. If its etcd was killed or \
crashed, the last writes it acknowledged are missing: start it once more, and stop it or take a snapshot of it.";

/// `snapshot restore`. Says nothing if all is well, but that a data directory may lack something.
pub(super) fn restore(context: &Context) -> Result<()> {
    let file = PathBuf::from(context.one_word("snapshot restore requires exactly one argument")?);
    let args = &context.args;
    let bump = u64::try_from(args.int("bump-revision"))
        .map_err(|_| Failure::bad_args("--bump-revision must not be negative"))?;
    if (bump > 0) != args.bool("mark-compacted") {
        return Err(Failure::bad_args("--mark-compacted required if --revision-bump > 0"));
    }
    if !args.string("wal-dir").is_empty() {
        return Err(Failure::bad_args("--wal-dir is not supported: the log is part of the data directory"));
    }
    let name = args.string("name");
    let data_dir = match args.string("data-dir") {
        "" => PathBuf::from(format!("{name}.etcd")),
        given => PathBuf::from(given),
    };
    let error = |error: &dyn std::fmt::Display| Failure::error(error.to_string());
    let founding = Founding::parse(
        name,
        args.string("initial-cluster"),
        args.string("initial-cluster-token"),
        args.string("initial-advertise-peer-urls"),
    );
    let founding = founding.map_err(|refusal| error(&refusal))?;
    let skip_hash_check = args.bool("skip-hash-check");
    if file.is_dir() {
        eprintln!("{FOLDER_WARNING}");
    }
    let done = make(&Restore { file, data_dir, skip_hash_check, bump, founding }).map_err(|refusal| error(&refusal))?;
    if done.detached > 0 {
        eprintln!("{} keys named a lease that does not exist; they are kept without one", done.detached);
    }
    Ok(())
}

/// `snapshot status`.
pub(super) fn status(context: &Context) -> Result<()> {
    let path = context.one_word("snapshot status requires exactly one argument")?;
    let file = DiskFile::open(path.as_ref()).map_err(|error| Failure::error(error.to_string()))?;
    let status = read(file).map_err(|error| Failure::error(error.to_string()))?;
    context.printer.show(&status)
}
