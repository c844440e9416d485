//! Slices fetched and checked (READ).

use futures::StreamExt as _;
use futures::stream;
use streamhouse_segment::verify_slice;
use streamhouse_store::GetError;

use super::{At, Audit, AuditError, AuditReport, Entry, Problem};

/// BOUND: slices fetched at once, each of at most an object's size.
const AT_ONCE: usize = 8;

pub(super) async fn verify(
    audit: &Audit,
    at: &At<'_>,
    page: &[Entry],
    report: &mut AuditReport,
) -> Result<(), AuditError> {
    let mut checks = stream::iter(page)
        .map(|entry| async move { (entry, check(audit, entry).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((entry, checked)) = checks.next().await {
        match checked {
            Ok(()) => {
                report.verified_slices += 1;
                report.verified_bytes += u64::from(entry.length);
            }
            Err(Failed::Unread(AuditError::Store(error))) => match error {
                // That the object is missing has been told already.
                GetError::NotFound { .. } => {}
                GetError::Short { .. } | GetError::Other { .. } => {
                    report.problems.push(corrupt(at, entry, error.to_string()));
                }
                error => return Err(error.into()),
            },
            Err(Failed::Unread(error)) => return Err(error),
            Err(Failed::Slice(reason)) => report.problems.push(corrupt(at, entry, reason)),
        }
    }
    Ok(())
}

enum Failed {
    Unread(AuditError),
    Slice(String),
}

async fn check(audit: &Audit, entry: &Entry) -> Result<(), Failed> {
    let key = entry.object.key();
    let range = entry.position..entry.position + u64::from(entry.length);
    let get = async || Ok(audit.store.get_range(&key, range.clone()).await?);
    let bytes = audit.ask(&format!("object {key}"), get).await.map_err(Failed::Unread)?;
    verify_slice(&bytes, entry.crc32c, entry.base, entry.last)
        .map_err(|error| Failed::Slice(error.to_string()))
}

fn corrupt(at: &At<'_>, entry: &Entry, reason: String) -> Problem {
    let object = entry.object.key();
    Problem::CorruptSlice { object, at: at.to_string(), base: entry.base, reason }
}
