use std::path::Path;

use super::*;
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId};

fn slice(sequence: u64, bytes: &[u8]) -> Slice {
    let object = ObjectId {
        cluster: ClusterId::from_bytes([1; 16]),
        generation: Generation { counter: 1, random: 1 },
        session: SessionId(1),
        sequence,
    };
    let end = bytes.len() as u64;
    Slice { base_offset: 0, last_offset: 0, object, start: 0, end, crc32c: 0 }
}

async fn cache(dir: &Path) -> SegmentCache {
    SegmentCache::builder().dir(dir).size_bytes(LEAST_DISK).open().await.unwrap()
}

/// A new folder under the system's, removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("streamhouse-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left over in the system's folder for such things harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn what_went_in_comes_out_also_after_a_restart() {
    let folder = Folder::new("cache-restart");
    let bytes = vec![7; 10_000];
    let slice = slice(1, &bytes);
    let first = cache(&folder.0).await;
    assert_eq!(first.get(&slice).await, None);
    first.insert(&slice, &bytes.clone().into());
    assert_eq!(first.get(&slice).await.as_deref(), Some(&bytes[..]));
    first.flush().await;
    first.inner.cache.close().await.unwrap();
    drop(first);
    let second = cache(&folder.0).await;
    assert_eq!(second.get(&slice).await.as_deref(), Some(&bytes[..]));
    second.remove(&slice);
    assert_eq!(second.get(&slice).await, None);
}

/// Content that is told apart from every other slice's.
fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(PIECE as usize / 8)
}

const PIECE: u64 = 64 << 10;

/// How many bytes the folder's files have.
fn size_of(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn a_full_cache_keeps_within_its_sizes_and_what_it_still_has_is_right() {
    let folder = Folder::new("cache-bound");
    let builder = SegmentCache::builder().dir(&folder.0).size_bytes(LEAST_DISK);
    let cache = builder.memory_bytes(LEAST_MEMORY).open().await.unwrap();
    let count = 4 * LEAST_DISK / PIECE;
    for number in 0..count {
        let bytes = content(number);
        cache.insert(&slice(number, &bytes), &bytes.into());
        // BOUND: at any time, not only in the end.
        if number % 16 == 15 {
            cache.flush().await;
            let (disk, memory) = (size_of(&folder.0), cache.inner.cache.memory().usage());
            assert!(disk <= LEAST_DISK, "{disk}");
            assert!(memory <= LEAST_MEMORY, "{memory}");
        }
    }
    let mut hits = 0;
    for number in 0..count {
        let bytes = content(number);
        if let Some(found) = cache.get(&slice(number, &bytes)).await {
            assert!(found == bytes, "slice {number} is another's");
            hits += 1;
        }
    }
    // Far more than memory holds, and no more than both hold together.
    let kept = hits * PIECE;
    let both = LEAST_DISK + LEAST_MEMORY as u64;
    assert!((LEAST_DISK / 2..=both).contains(&kept), "{kept}");
}

#[tokio::test]
async fn the_same_folder_is_the_same_cache() {
    let folder = Folder::new("cache-shared");
    let one = cache(&folder.0).await;
    let other = cache(&folder.0).await;
    assert!(Arc::ptr_eq(&one.inner, &other.inner));
    let slice = slice(1, b"bytes");
    one.insert(&slice, &Bytes::from_static(b"bytes"));
    assert_eq!(other.get(&slice).await.as_deref(), Some(&b"bytes"[..]));
}

#[tokio::test]
async fn damage_on_disk_is_a_miss() {
    let folder = Folder::new("cache-damage");
    let bytes = vec![7; 100_000];
    let slice = slice(1, &bytes);
    let first = cache(&folder.0).await;
    first.insert(&slice, &bytes.clone().into());
    first.flush().await;
    first.inner.cache.close().await.unwrap();
    drop(first);
    // Wherever the entry lies, one of its bytes is another now.
    for file in std::fs::read_dir(&folder.0).unwrap() {
        let path = file.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        if let Some(at) = content.windows(1_000).position(|window| window == &bytes[..1_000]) {
            content[at + 500] ^= 1;
            std::fs::write(&path, content).unwrap();
        }
    }
    let second = cache(&folder.0).await;
    assert_eq!(second.get(&slice).await, None);
}

#[tokio::test]
async fn a_folder_that_is_deleted_under_the_cache_harms_nobody() {
    let folder = Folder::new("cache-deleted");
    let bytes = vec![7; 10_000];
    let cache = cache(&folder.0).await;
    std::fs::remove_dir_all(&folder.0).unwrap();
    for sequence in 0..10 {
        cache.insert(&slice(sequence, &bytes), &bytes.clone().into());
    }
    cache.flush().await;
    let found = cache.get(&slice(3, &bytes)).await;
    assert!(found.is_none_or(|found| found == bytes));
}

#[tokio::test]
async fn a_slice_that_is_too_large_is_not_kept() {
    let cache = SegmentCache::builder().memory_bytes(LEAST_MEMORY).open().await.unwrap();
    let bytes = vec![7; LEAST_MEMORY];
    let slice = slice(1, &bytes);
    cache.insert(&slice, &bytes.into());
    assert_eq!(cache.get(&slice).await, None);
    let small = SegmentCache::builder().memory_bytes(5).open().await.unwrap_err();
    assert!(small.to_string().starts_with("memory_bytes: 5 bytes are too few"), "{small}");
}
