//! `streamhouse cluster backup` and `restore`: the metadata's way out and back.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;
use streamhouse_controller::backup::{self, BackupError, NotPlaced, Objects, Restored, Taken};

use crate::commands::stores;
use crate::controllers::Controllers;
use crate::exit::{Failure, Kind};
use crate::output::{self, Format};

/// Lines about what was not placed, or is missing, for people; programs get all of them.
const LINES: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct TakeArgs {
    /// Where to: a folder of a store, or a whole name ending in .backup. Default: <cluster>/backups in the cluster's own
    /// store.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    #[command(flatten)]
    controllers: Controllers,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The backup: a whole name ending in .backup, or a folder, of which the newest is taken.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where the objects of the cluster lie now. Default: where they lay. A backup from before the first agent does not
    /// know where that is.
    #[arg(long, value_name = "URL", conflicts_with = "no_objects")]
    store: Option<String>,
    /// There are no objects: the backup names no store, and no agent ever wrote.
    #[arg(long)]
    no_objects: bool,
    #[command(flatten)]
    controllers: Controllers,
}

/// What `cluster backup --output json` prints.
#[derive(Debug, Serialize)]
struct BackedUp {
    backup: String,
    cluster: String,
    generation: String,
    /// The index of which it is.
    backup_index: u64,
    /// Cluster time of that index, in milliseconds since the epoch.
    backup_time_ms: u64,
    pairs: u64,
    bytes: u64,
}

pub(super) async fn take(args: TakeArgs, format: Format) -> anyhow::Result<()> {
    if let Some(to) = &args.to {
        stores::require_shared("--to", to)?;
    }
    let taken = backup::take(&args.controllers.resolve()?, args.to.as_deref()).await;
    let taken = taken.map_err(|error| failure(&error))?;
    let backed_up = BackedUp {
        cluster: taken.cluster(),
        generation: taken.generation(),
        backup_index: taken.header.index,
        backup_time_ms: taken.header.time_ms,
        pairs: taken.totals.pairs,
        bytes: taken.totals.bytes,
        backup: Taken::into_url(taken),
    };
    format.print(&backed_up, |b| {
        format!("backed up to index {} ({}): {}", b.backup_index, output::bytes(b.bytes), b.backup)
    })
}

pub(super) async fn restore(args: RestoreArgs, format: Format) -> anyhow::Result<()> {
    stores::require_shared("--from", &args.from)?;
    if let Some(store) = &args.store {
        stores::require_shared("--store", store)?;
    }
    let controllers = args.controllers.resolve()?;
    let objects = match &args.store {
        Some(url) => Objects::In(url),
        None if args.no_objects => Objects::None,
        None => Objects::WhereTheyLay,
    };
    let restored = backup::restore(&controllers, &args.from, objects).await;
    format.print(&restored.map_err(|error| failure(&error))?, human)
}

fn failure(error: &BackupError) -> Failure {
    let kind = match error {
        BackupError::Place(_) => Kind::Name,
        BackupError::Open(_) | BackupError::Foreign { .. } | BackupError::Objects { .. } => {
            Kind::Usage
        }
        BackupError::File { .. } => Kind::Damaged,
        error if error.can_retry() => Kind::Unavailable,
        BackupError::Put(_)
        | BackupError::Get(_)
        | BackupError::State(_)
        | BackupError::Cluster { .. } => Kind::Failed,
    };
    Failure::new(kind, error.to_string())
}

fn human(restored: &Restored) -> String {
    let Restored { topics, partitions, segments, rolled_forward: more, .. } = restored;
    let time = UNIX_EPOCH + Duration::from_millis(restored.backup_time_ms);
    let mut text = format!(
        "restored cluster {} to index {}, of {}, as generation {}\n\
         {topics} topics, {partitions} partitions, {segments} segments\n\
         rolled forward: {} records in {} slices of {} objects that were written after the backup\n",
        restored.cluster,
        restored.backup_index,
        humantime::format_rfc3339_seconds(time),
        restored.generation,
        output::count(more.records),
        output::count(more.slices),
        output::count(more.objects),
    );
    if restored.store.is_none() {
        text.push_str("no object was looked for\n");
    }
    let not_placed = restored.not_placed.iter().map(line);
    list(&mut text, "not placed", not_placed);
    list(&mut text, "objects missing in the bucket", restored.missing_objects.iter().cloned());
    text
}

fn line(not_placed: &NotPlaced) -> String {
    let NotPlaced { object, slice, reason } = not_placed;
    match slice {
        None => format!("object {object}: {reason}"),
        Some(slice) => format!(
            "topic {}, partition {}, offsets {} to {}, {} records in {object}: {reason}",
            slice.topic.as_deref().unwrap_or(&slice.topic_id),
            slice.partition,
            slice.base_offset,
            slice.last_offset,
            slice.records,
        ),
    }
}

fn list(text: &mut String, what: &str, lines: impl ExactSizeIterator<Item = String>) {
    let count = lines.len();
    if count == 0 {
        return;
    }
    let _ = writeln!(text, "{what}: {count}");
    for line in lines.take(LINES) {
        let _ = writeln!(text, "  {line}");
    }
    if count > LINES {
        let _ = writeln!(text, "  … and {} more: see --output json", count - LINES);
    }
}
