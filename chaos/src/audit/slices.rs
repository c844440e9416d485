//! Slices fetched and checked (READ).

use futures::StreamExt as _;
use futures::stream;
use streamhouse_client::Store;
use streamhouse_segment::verify_slice;
use streamhouse_store::GetError;

use super::{At, AuditError, AuditReport, Entry, Problem};

/// BOUND: slices fetched at once, each of at most an object's size.
const AT_ONCE: usize = 8;

pub(super) async fn verify(
    store: &Store,
    at: &At<'_>,
    page: &[Entry],
    report: &mut AuditReport,
) -> Result<(), AuditError> {
    let mut checks = stream::iter(page)
        .map(|entry| async move { (entry, check(store, entry).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((entry, checked)) = checks.next().await {
        match checked {
            Ok(()) => {
                report.verified_slices += 1;
                report.verified_bytes += u64::from(entry.length);
            }
            // That the object is missing has been told already.
            Err(Failed::Store(GetError::NotFound { .. })) => {}
            Err(Failed::Store(error @ (GetError::Short { .. } | GetError::Other { .. }))) => {
                report.problems.push(corrupt(at, entry, error.to_string()));
            }
            Err(Failed::Store(error)) => return Err(error.into()),
            Err(Failed::Slice(reason)) => report.problems.push(corrupt(at, entry, reason)),
        }
    }
    Ok(())
}

enum Failed {
    Store(GetError),
    Slice(String),
}

async fn check(store: &Store, entry: &Entry) -> Result<(), Failed> {
    let range = entry.position..entry.position + u64::from(entry.length);
    let bytes = store.get_range(&entry.object.key(), range).await.map_err(Failed::Store)?;
    verify_slice(&bytes, entry.crc32c, entry.base, entry.last)
        .map_err(|error| Failed::Slice(error.to_string()))
}

fn corrupt(at: &At<'_>, entry: &Entry, reason: String) -> Problem {
    let object = entry.object.key();
    Problem::CorruptSlice { object, at: at.to_string(), base: entry.base, reason }
}
