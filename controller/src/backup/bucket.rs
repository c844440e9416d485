//! What the bucket holds beside the backup: the objects written after it, with
//! their footers, and whether those that the index refers to are there.

use super::BackupError;
use super::patience::patiently;
use super::survey::Survey;
use futures::StreamExt;
use std::collections::BTreeSet;
use streamhouse_segment::object::OBJECT_HEADER_BYTES;
use streamhouse_segment::{ClusterId, Footer, Generation, ObjectId, TRAILER_BYTES, Trailer};
use streamhouse_store::{GetError, Store};

/// BOUND: keys of a listing in memory.
const PAGE: usize = 20_000;
/// BOUND: footers being read.
const AT_ONCE: usize = 16;
/// Read with the trailer: most footers fit.
const TAIL_BYTES: u64 = 16 << 10;

/// Looks for the cluster's marker: in another store, or a mount point without
/// its mount, all objects would be missing.
pub(crate) async fn must_be_the_cluster_s(
    store: &Store,
    survey: &Survey,
) -> Result<(), BackupError> {
    let cluster = ClusterId::from_bytes(survey.header.cluster);
    let key = cluster.marker_key();
    match patiently(|| store.head(&key)).await? {
        Some(_) => Ok(()),
        None => Err(BackupError::Foreign {
            store: store.url().to_owned(),
            cluster: cluster.to_string(),
            key,
        }),
    }
}

/// The objects that were written after the backup, by their keys.
#[derive(Debug, Default)]
pub(crate) struct After {
    pub(crate) objects: Vec<ObjectId>,
    /// Every generation seen, those before the backup included.
    pub(crate) generations: BTreeSet<Generation>,
}

impl After {
    pub(crate) async fn list(store: &Store, survey: &Survey) -> Result<Self, BackupError> {
        let folder = format!("{}/l0", ClusterId::from_bytes(survey.header.cluster));
        let mut after = Self::default();
        let mut last: Option<String> = None;
        loop {
            let page = patiently(|| store.list(&folder, last.as_deref(), PAGE)).await?;
            for listed in &page {
                // Whatever has another form was not written by an agent.
                let Ok(id) = ObjectId::parse_key(&listed.key) else { continue };
                after.generations.insert(id.generation);
                if survey.is_after(&id) {
                    after.objects.push(id);
                }
            }
            let full = page.len() == PAGE;
            match page.into_iter().next_back() {
                Some(end) if full => last = Some(end.key),
                _ => break,
            }
        }
        after.objects.sort_unstable();
        Ok(after)
    }
}

/// An object as its footer describes it.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) id: ObjectId,
    pub(crate) size: u64,
    pub(crate) footer: Footer,
}

/// An object whose footer cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) id: ObjectId,
    pub(crate) reason: String,
}

/// Reads the footers of these objects, several at once, and hands each on, in
/// any order. Fails only if the store cannot be asked.
pub(crate) async fn describe(
    store: &Store,
    objects: &[ObjectId],
    mut each: impl FnMut(Result<Described, Unreadable>),
) -> Result<(), BackupError> {
    let mut reads = futures::stream::iter(objects.iter().copied())
        .map(|id| read(store, id))
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = reads.next().await {
        each(outcome?);
    }
    Ok(())
}

async fn read(store: &Store, id: ObjectId) -> Result<Result<Described, Unreadable>, BackupError> {
    let key = id.key();
    let tail = match patiently(|| store.get_tail(&key, TAIL_BYTES)).await {
        Ok(tail) => tail,
        Err(error) => return unreadable(id, error),
    };
    let (size, mut tail) = tail;
    let parsed = tail
        .len()
        .checked_sub(TRAILER_BYTES)
        .ok_or_else(|| format!("it has {size} bytes, too few for an object"))
        .and_then(|at| Trailer::parse(&tail[at..]).map_err(|e| e.to_string()));
    let trailer = match parsed {
        Ok(trailer) => trailer,
        Err(reason) => return Ok(Err(Unreadable { id, reason })),
    };
    let wanted = u64::from(trailer.footer_length) + TRAILER_BYTES as u64;
    if wanted > size.saturating_sub(OBJECT_HEADER_BYTES as u64) {
        let reason = format!("its footer of {wanted} bytes does not fit its {size}");
        return Ok(Err(Unreadable { id, reason }));
    }
    if wanted > tail.len() as u64 {
        match patiently(|| store.get_range(&key, size - wanted..size)).await {
            Ok(whole) => tail = whole,
            Err(error) => return unreadable(id, error),
        }
    }
    let end = tail.len() - TRAILER_BYTES;
    let start = end - trailer.footer_length as usize;
    Ok(match Footer::parse(&tail[start..end], &trailer) {
        Ok(footer) if footer.id == id => Ok(Described { id, size, footer }),
        Ok(footer) => {
            let reason = format!("by its footer it is another object: {}", footer.id.key());
            Err(Unreadable { id, reason })
        }
        Err(error) => Err(Unreadable { id, reason: error.to_string() }),
    })
}

fn unreadable(id: ObjectId, error: GetError) -> Result<Result<Described, Unreadable>, BackupError> {
    match error {
        GetError::NotFound { .. } | GetError::Short { .. } | GetError::Other { .. } => {
            Ok(Err(Unreadable { id, reason: error.to_string() }))
        }
        GetError::Unavailable { .. } | GetError::Throttled { .. } | GetError::Denied { .. } => {
            Err(error.into())
        }
    }
}

/// The objects of the backup's index that are not in the bucket, by key.
pub(crate) async fn missing(store: &Store, survey: &Survey) -> Result<Vec<String>, BackupError> {
    let mut missing = Vec::new();
    for (any, ranges) in survey.indexed() {
        let folder = any.session_prefix();
        let mut wanted = ranges.iter().flat_map(|(first, last)| *first..=*last).peekable();
        let mut last: Option<String> = None;
        while wanted.peek().is_some() {
            let page = patiently(|| store.list(&folder, last.as_deref(), PAGE)).await?;
            for listed in &page {
                let Ok(found) = ObjectId::parse_key(&listed.key) else { continue };
                while let Some(sequence) = wanted.next_if(|wanted| *wanted < found.sequence) {
                    missing.push(ObjectId { sequence, ..any }.key());
                }
                wanted.next_if_eq(&found.sequence);
            }
            let full = page.len() == PAGE;
            match page.into_iter().next_back() {
                Some(end) if full => last = Some(end.key),
                _ => break,
            }
        }
        missing.extend(wanted.map(|sequence| ObjectId { sequence, ..any }.key()));
    }
    Ok(missing)
}
