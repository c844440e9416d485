//! A store that is open: what it is called, and where its keys live.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::OpenError;
use crate::fault::Fault;
use crate::folder::Folder;
use crate::location::{StoreKind, check_key};
use crate::options::StoreOptions;

/// An open store. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) url: String,
    pub(crate) kind: StoreKind,
    /// What stands before every key, without slashes at its ends; may be empty.
    pub(crate) prefix: String,
    /// The folder of a `file://` store.
    pub(crate) folder: Option<Arc<Folder>>,
}

impl Store {
    /// Open a store by its URL, with options from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`).
    ///
    /// For a `file://` store this makes the folder if it is missing and checks that it can be written; no other
    /// store is contacted ([`probe`](Self::probe) does that).
    pub fn open(url: &str) -> Result<Self, OpenError> {
        StoreOptions::new().open(url)
    }

    /// Open a store with explicit options as well as those of the environment; the explicit ones win.
    pub fn open_with(
        url: &str,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, OpenError> {
        StoreOptions::new().set_all(options).open(url)
    }

    /// A store over any `object_store`, for tests. Its URL is made up: `memory://given/<prefix>` and so on.
    ///
    /// A store made so of kind [`File`](StoreKind::File) knows no folder and cannot
    /// [`sync_existing`](Self::sync_existing); to put faults between StreamHouse and a folder use
    /// [`layered`](Self::layered).
    ///
    /// # Panics
    /// If `prefix` is not a plain key.
    pub fn from_object_store(objects: Arc<dyn ObjectStore>, prefix: &str, kind: StoreKind) -> Self {
        let prefix = prefix.trim_matches('/');
        if !prefix.is_empty()
            && let Err(reason) = check_key(prefix)
        {
            panic!("the prefix {prefix:?} {reason}");
        }
        let slash = if prefix.is_empty() { "" } else { "/" };
        let url = format!("{}://given{slash}{prefix}", kind.scheme());
        Self::new(Inner { objects, url, kind, prefix: prefix.to_owned(), folder: None })
    }

    /// The same store with its requests sent through `layer`: faults, delays, counters.
    #[must_use]
    pub fn layered(
        &self,
        layer: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        Self::new(Inner {
            objects: layer(Arc::clone(&self.inner.objects)),
            url: self.inner.url.clone(),
            kind: self.inner.kind,
            prefix: self.inner.prefix.clone(),
            folder: self.inner.folder.clone(),
        })
    }

    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    /// The canonical URL: what agents compare and clients are told. Never holds credentials.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// What stands behind the store.
    #[must_use]
    pub fn kind(&self) -> StoreKind {
        self.inner.kind
    }

    /// Whether requests leave this machine, as far as the URL tells.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        match self.inner.kind {
            StoreKind::File | StoreKind::Memory => false,
            StoreKind::S3 | StoreKind::Gcs | StoreKind::Azure => true,
        }
    }

    /// Where `key` lives in the underlying store.
    pub(crate) fn path(&self, key: &str) -> Result<Path, Fault> {
        check_key(key).map_err(|reason| Fault::refused(format!("the key {reason}")))?;
        let full = match self.inner.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        Path::parse(full).map_err(|error| Fault::refused(error.to_string()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.inner.url).finish()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.url)
    }
}
