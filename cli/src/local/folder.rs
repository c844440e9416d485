//! The data folder of a local cluster: what lies where, and who may change it.
//!
//! ```text
//! DIR/cluster.json       what the cluster is made of and which processes run it (see `record`)
//! DIR/lock               held by whoever starts or stops processes
//! DIR/objects/           the object store, unless another one was chosen
//! DIR/controller-1/      a controller's data
//! DIR/controller-1.log   what it says; agents have a log only
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::record::Member;
use crate::clock;
use crate::exit::Failure;

/// How long one command waits for another one's start or stop to be over.
const LOCK_PATIENCE: Duration = Duration::from_secs(90);

/// A local cluster's data folder; its path is absolute.
#[derive(Clone, Debug)]
pub(crate) struct Folder(PathBuf);

/// Nobody else starts or stops processes of the cluster while this lives.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Folder {
    /// The folder at `path`, made if it is missing.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("data folder {}", path.display()))?;
        Self::find(path)?.with_context(|| format!("data folder {}: vanished", path.display()))
    }

    /// The folder at `path`, if there is one.
    pub(crate) fn find(path: &Path) -> anyhow::Result<Option<Self>> {
        match path.canonicalize() {
            Ok(path) if path.is_dir() => Ok(Some(Self(path))),
            Ok(path) => Err(Failure::usage(format!("{} is not a folder", path.display())).into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("data folder {}", path.display())),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    pub(crate) fn data(&self, member: Member) -> PathBuf {
        self.0.join(member.to_string())
    }

    pub(crate) fn log(&self, member: Member) -> PathBuf {
        self.0.join(format!("{member}.log"))
    }

    /// Waits until nobody else starts or stops processes here.
    pub(crate) async fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.0.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("lock {}", path.display()))?;
        let deadline = clock::now() + LOCK_PATIENCE;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => return Ok(Lock { _file: file }),
                Err((file, Errno::EWOULDBLOCK)) if clock::now() < deadline => file,
                Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!(
                    "another `streamhouse up` or `down` is at work on {}",
                    self.0.display()
                ),
                Err((_, errno)) => {
                    return Err(errno).with_context(|| format!("lock {}", path.display()));
                }
            };
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
