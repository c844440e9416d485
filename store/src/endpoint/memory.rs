//! A bucket in memory whose names are in order: a page of a listing costs as much as the page holds, however many
//! objects there are.
//!
//! Each operation takes effect at one moment between its call and its answer, under one lock. Parts of objects, copies
//! and folders are none of an endpoint's operations, and so none of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UpdateVersion,
};
use parking_lot::RwLock;

/// See the module. Cheap to clone; clones are one bucket.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<RwLock<Objects>>);

#[derive(Debug, Default)]
struct Objects {
    by_name: BTreeMap<String, Object>,
    /// How many there have been: no two have one ETag.
    written: u64,
}

#[derive(Debug, Clone)]
struct Object {
    meta: ObjectMeta,
    bytes: Bytes,
    attributes: Attributes,
}

/// A part of a listing.
pub(super) struct Page {
    pub(super) objects: Vec<ObjectMeta>,
    /// There are more behind it.
    pub(super) more: bool,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The first so many objects whose names begin with `prefix` and come after `after`, in the order of their bytes.
    pub(super) fn page(&self, prefix: &str, after: &str, most: usize) -> Page {
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        let objects = self.0.read();
        let names = objects.by_name.range::<str, _>((from, Bound::Unbounded));
        let mut found = names.take_while(|(name, _)| name.starts_with(prefix));
        let page = found.by_ref().take(most).map(|(_, object)| object.meta.clone()).collect();
        Page { objects: page, more: found.next().is_some() }
    }

    fn object(&self, path: &Path) -> Result<Object> {
        self.0.read().by_name.get(path.as_ref()).cloned().ok_or_else(|| missing(path))
    }
}

impl Objects {
    fn put(&mut self, path: &Path, bytes: Bytes, options: PutOptions) -> Result<PutResult> {
        let now = self.by_name.get(path.as_ref());
        match options.mode {
            PutMode::Overwrite => {}
            PutMode::Create if now.is_none() => {}
            PutMode::Create => {
                let source = "there is one of this name".into();
                return Err(Error::AlreadyExists { path: path.to_string(), source });
            }
            PutMode::Update(expected) => expect(path, now, &expected)?,
        }
        self.written += 1;
        let e_tag = Some(format!("\"{}\"", self.written));
        let meta = ObjectMeta {
            location: path.clone(),
            last_modified: now_by_the_wall(),
            size: bytes.len() as u64,
            e_tag: e_tag.clone(),
            version: None,
        };
        let object = Object { meta, bytes, attributes: options.attributes };
        self.by_name.insert(path.to_string(), object);
        Ok(PutResult { e_tag, version: None, extensions: Default::default() })
    }
}

fn expect(path: &Path, now: Option<&Object>, expected: &UpdateVersion) -> Result<()> {
    let now = now.and_then(|object| object.meta.e_tag.as_ref());
    if now.is_some() && now == expected.e_tag.as_ref() {
        return Ok(());
    }
    let source = format!("its ETag is {now:?}, not {:?}", expected.e_tag).into();
    Err(Error::Precondition { path: path.to_string(), source })
}

#[expect(
    clippy::disallowed_methods,
    reason = "test support: a bucket tells when an object was written"
)]
fn now_by_the_wall<T: From<SystemTime>>() -> T {
    SystemTime::now().into()
}

fn missing(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "there is no such object".into() }
}

fn not_implemented<T>(operation: &str) -> Result<T> {
    Err(Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: Memory::default().to_string(),
    })
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ordered bucket in memory")
    }
}

#[async_trait]
impl ObjectStore for Memory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.write().put(location, payload.into(), options)
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        not_implemented("put_multipart_opts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Object { meta, bytes, attributes } = self.object(location)?;
        options.check_preconditions(&meta)?;
        let range = match options.range {
            None => 0..meta.size,
            Some(range) => range
                .as_range(meta.size)
                .map_err(|error| Error::Generic { store: "Memory", source: Box::new(error) })?,
        };
        // It has as many bytes as fit into memory.
        let bytes = bytes.slice(range.start as usize..range.end as usize);
        let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let objects = self.clone();
        let delete = move |location: Result<Path>| {
            let location = location?;
            objects.0.write().by_name.remove(location.as_ref());
            Ok(location)
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        // A folder of this name, and no other that begins as it does.
        let folder = prefix.map_or_else(String::new, |prefix| match prefix.as_ref() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        });
        let page = self.page(&folder, "", usize::MAX);
        stream::iter(page.objects.into_iter().map(Ok)).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        not_implemented("list_with_delimiter")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        not_implemented("copy_opts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;
    use object_store::ObjectStoreExt as _;

    async fn put(bucket: &Memory, name: &str, bytes: &'static [u8], mode: PutMode) -> Result<()> {
        let payload = PutPayload::from_static(bytes);
        bucket.put_opts(&Path::from(name), payload, PutOptions::from(mode)).await.map(drop)
    }

    async fn with(names: &[&str]) -> Memory {
        let bucket = Memory::new();
        for name in names {
            put(&bucket, name, b"bytes", PutMode::Create).await.unwrap();
        }
        bucket
    }

    fn names(page: &Page) -> Vec<&str> {
        page.objects.iter().map(|meta| meta.location.as_ref()).collect()
    }

    #[tokio::test]
    async fn of_those_who_create_one_name_one_wins() {
        let bucket = Memory::new();
        let create = |bytes| put(&bucket, "a", bytes, PutMode::Create);
        let both = tokio::join!(create(b"one"), create(b"two"));
        assert!(both.0.is_ok());
        assert!(matches!(both.1, Err(Error::AlreadyExists { .. })));
        let bytes = bucket.get(&Path::from("a")).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes, "one");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_threads_that_create_one_name_one_wins() {
        let bucket = Memory::new();
        let mut creators = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let bucket = bucket.clone();
            creators.spawn(async move { put(&bucket, "a", b"", PutMode::Create).await.is_ok() });
        }
        let won = creators.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(won, 1);
    }

    #[tokio::test]
    async fn pages_follow_each_other_and_hold_every_name_once() {
        // `a-b` comes before `a/…`, though it is no folder's.
        let bucket = with(&["a/3", "a/1", "b/1", "a-b", "a/2", "a", "a/10"]).await;
        let first = bucket.page("a/", "", 2);
        assert_eq!((names(&first), first.more), (vec!["a/1", "a/10"], true));
        let second = bucket.page("a/", "a/10", 2);
        assert_eq!((names(&second), second.more), (vec!["a/2", "a/3"], false));
        assert_eq!(names(&bucket.page("a/", "a/3", 2)), [""; 0]);
        // To begin behind a name, it need not be there, nor have the prefix.
        assert_eq!(names(&bucket.page("a/", "a/11", 9)), ["a/2", "a/3"]);
        assert_eq!(names(&bucket.page("a/", "a-", 9)).len(), 4);
        assert_eq!(names(&bucket.page("a/", "b", 9)), [""; 0]);
        assert_eq!(names(&bucket.page("", "", 9)).len(), 7);
    }

    #[tokio::test]
    async fn a_folder_is_listed_without_those_that_begin_as_it_does() {
        let bucket = with(&["a/1", "a-b/1", "a"]).await;
        let listed = bucket.list(Some(&Path::from("a"))).try_collect::<Vec<_>>().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].location, Path::from("a/1"));
    }

    #[tokio::test]
    async fn every_object_has_an_etag_of_its_own_by_which_it_is_read_and_replaced() {
        let bucket = with(&["a"]).await;
        let path = Path::from("a");
        let first = bucket.head(&path).await.unwrap().e_tag;
        put(&bucket, "a", b"others", PutMode::Overwrite).await.unwrap();
        let second = bucket.head(&path).await.unwrap();
        assert_ne!(first, second.e_tag);
        assert_eq!(second.size, 6);
        let read = GetOptions { if_match: first.clone(), ..GetOptions::default() };
        let stale = bucket.get_opts(&path, read).await;
        assert!(matches!(stale, Err(Error::Precondition { .. })));
        let update = |e_tag| PutMode::Update(UpdateVersion { e_tag, version: None });
        let stale = put(&bucket, "a", b"", update(first)).await;
        assert!(matches!(stale, Err(Error::Precondition { .. })));
        put(&bucket, "a", b"", update(second.e_tag)).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_deleted_is_gone_and_its_name_is_free() {
        let bucket = with(&["a"]).await;
        let path = Path::from("a");
        bucket.delete(&path).await.unwrap();
        assert!(matches!(bucket.head(&path).await, Err(Error::NotFound { .. })));
        assert!(bucket.page("", "", 9).objects.is_empty());
        put(&bucket, "a", b"", PutMode::Create).await.unwrap();
    }
}
