//! Upkeep: `compaction`, `alarm`, `downgrade`, `move-leader`, `snapshot save`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use quorate_api::etcdserverpb::alarm_request::AlarmAction;
use quorate_api::etcdserverpb::downgrade_request::DowngradeAction;
use quorate_api::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, DowngradeRequest, MoveLeaderRequest, SnapshotResponse,
    StatusRequest,
};
use quorate_node::disk::file::sync_dir;
use quorate_node::snapshot::has_checksum;

use crate::commands::Context;
use crate::failure::{Failure, Result, status_text};
use crate::flags::Flag;
use crate::go;
use crate::print::{Downgraded, LeaderMoved, write_stdout};

pub(super) const COMPACTION_FLAGS: &[Flag] =
    &[Flag::bool("physical", "return only when the history is gone from the disk, too")];

/// `compaction`.
pub(super) async fn compaction(context: &Context) -> Result<()> {
    let revision = context.one_word("compaction command needs 1 argument")?;
    let revision = go::parse_int(revision, 10).map_err(Failure::error)?;
    let physical = context.args.bool("physical");
    let client = if physical { context.patient_client()? } else { context.client()? };
    client.compact(CompactionRequest { revision, physical }).await?;
    write_stdout(format!("compacted revision {revision}\n").as_bytes())
}

/// `alarm list`.
pub(super) async fn alarms(context: &Context) -> Result<()> {
    no_words(context, "alarm list command accepts no arguments")?;
    let response = context.client()?.alarm(AlarmRequest::default()).await?;
    context.printer.show(&response)
}

/// `alarm disarm`: clears every alarm there is.
pub(super) async fn disarm(context: &Context) -> Result<()> {
    no_words(context, "alarm disarm command accepts no arguments")?;
    let client = context.client()?;
    let mut cleared = AlarmResponse::default();
    for alarm in client.alarm(AlarmRequest::default()).await?.alarms {
        let action = AlarmAction::Deactivate.into();
        let request = AlarmRequest { action, member_id: alarm.member_id, alarm: alarm.alarm };
        cleared.alarms.extend(client.alarm(request).await?.alarms);
    }
    context.printer.show(&cleared)
}

fn no_words(context: &Context, complaint: &str) -> Result<()> {
    if context.args.words().is_empty() { Ok(()) } else { Err(Failure::bad_args(complaint)) }
}

/// `downgrade validate`, `enable` and `cancel`.
pub(super) async fn downgrade(context: &Context, action: DowngradeAction) -> Result<()> {
    let version = match (action, context.args.words()) {
        (DowngradeAction::Cancel, []) => String::new(),
        (DowngradeAction::Cancel, _) => return Err(Failure::bad_args("too many arguments")),
        (_, []) => return Err(Failure::bad_args("TARGET_VERSION not provided")),
        (_, [version]) => version.clone(),
        (_, _) => return Err(Failure::bad_args("too many arguments")),
    };
    let request = DowngradeRequest { action: action.into(), version };
    let response = context.client()?.downgrade(request).await?;
    context.printer.show(&Downgraded { action, response })
}

/// `move-leader`: asks the leader, which must be among the endpoints.
pub(super) async fn move_leader(context: &Context) -> Result<()> {
    let target = context.one_word("move-leader command needs 1 argument")?;
    let target_id = go::parse_uint(target, 16).map_err(Failure::bad_args)?;
    let client = context.client()?;
    let endpoints = &client.config().endpoints;
    for endpoint in endpoints {
        let one = client.only(endpoint).map_err(Failure::bad_connection)?;
        let status = one.status(StatusRequest {}).await?;
        let member = status.header.map_or(0, |h| h.member_id);
        if status.leader == member {
            let response = one.move_leader(MoveLeaderRequest { target_id }).await?;
            return context.printer.show(&LeaderMoved { from: member, to: target_id, response });
        }
    }
    Err(Failure::bad_args(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
}

/// `snapshot save`: the file takes its name only once it is complete and durable.
pub(super) async fn save(context: &Context) -> Result<()> {
    let interrupted = |error: String| Failure::interrupted(error);
    let path = context.one_word("snapshot save expects one argument")?;
    let client = context.patient_client()?;
    if client.config().endpoints.len() != 1 {
        let text = "snapshot must be requested to one selected node, not multiple";
        return Err(Failure::interrupted(format!("{text} [{}]", client.config().endpoints.join(" "))));
    }
    let part = format!("{path}.part");
    let open = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let mut file = open.map_err(|e| interrupted(format!("could not open {part} ({e})")))?;
    let saved = download(&client, &mut file).await;
    let saved = saved.and_then(|version| {
        file.sync_all().map_err(|e| e.to_string())?;
        std::fs::rename(&part, path).map_err(|e| format!("could not rename {part} to {path} ({e})"))?;
        sync_dir(Path::new(path).parent().unwrap_or(Path::new("."))).map_err(|e| e.to_string())?;
        Ok(version)
    });
    let version = saved.map_err(|error| {
        let _ = std::fs::remove_file(&part);
        interrupted(error)
    })?;
    let mut text = format!("Snapshot saved at {path}\n");
    if !version.is_empty() {
        text += &format!("Server version {version}\n");
    }
    write_stdout(text.as_bytes())
}

/// Writes the stream to `file`; gives the version of the server's storage, if it says one.
async fn download(client: &crate::client::Client, file: &mut File) -> std::result::Result<String, String> {
    let mut stream = client.snapshot_stream().await.map_err(|s| status_text(&s))?;
    let (mut version, mut received) = (String::new(), Received::default());
    while let Some(chunk) = stream.message().await.map_err(|s| status_text(&s))? {
        file.write_all(&chunk.blob).map_err(|e| e.to_string())?;
        received.add(&chunk);
        if !chunk.version.is_empty() {
            version = chunk.version;
        }
    }
    received.check().map(|()| version)
}

/// How much of a snapshot has come.
#[derive(Default)]
struct Received {
    bytes: u64,
    /// What the server has yet to send, by its latest message; the checksum does not count.
    remaining: u64,
}

impl Received {
    fn add(&mut self, chunk: &SnapshotResponse) {
        self.bytes += chunk.blob.len() as u64;
        self.remaining = chunk.remaining_bytes;
    }

    /// Refuses a stream that has ended before its time: a server that is stopped, or a proxy between, may end it well.
    fn check(&self) -> std::result::Result<(), String> {
        let Self { bytes, remaining } = self;
        if *remaining > 0 {
            return Err(format!("the snapshot ended {remaining} bytes too early"));
        }
        // What restores it takes it only with its checksum.
        if !has_checksum(*bytes) {
            return Err(format!("sha256 checksum not found [bytes: {bytes}]"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[(u64, usize)]) -> std::result::Result<(), String> {
        let mut received = Received::default();
        for &(remaining_bytes, bytes) in chunks {
            received.add(&SnapshotResponse { remaining_bytes, blob: vec![0; bytes].into(), ..Default::default() });
        }
        received.check()
    }

    #[test]
    fn a_snapshot_is_saved_only_with_its_end() {
        let whole = [(512, 512), (0, 512), (0, 32)];
        assert_eq!(check(&whole), Ok(()));
        assert_eq!(check(&whole[..2]).unwrap_err(), "sha256 checksum not found [bytes: 1024]");
        assert_eq!(check(&whole[..1]).unwrap_err(), "the snapshot ended 512 bytes too early");
        assert_eq!(check(&[]).unwrap_err(), "sha256 checksum not found [bytes: 0]");
    }
}
