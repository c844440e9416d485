//! The part of a repair that moves files, and that may be interrupted
//! anywhere: what is to be done stands in a file of its own, synced before the
//! first move, and renamed after the last, until the controller is started.
//!
//! While that file is there, nothing else opens the folder. What was done
//! already is seen from the folder itself: the prepared database moves after
//! all of the old files, its identity after it, the plan goes last.

use crate::codec;
use crate::raft::{self, REPAIR_DONE, REPAIR_PLAN};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where a repair prepares the new data, inside the folder.
pub(crate) const PREPARED: &str = "rejoin";

/// A repair whose files are being moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The controller whose disk is given up.
    pub(crate) member: u64,
    /// Its successor.
    pub(crate) new: u64,
    /// The folder, inside the data folder, for the old files.
    pub(crate) kept: String,
}

impl Plan {
    /// A plan that is not begun yet.
    pub(crate) fn new(data: &Path, member: u64, new: u64) -> Self {
        let mut names = (1u32..).map(|n| format!("damaged-{n}"));
        let free = names.find(|name| !data.join(name).exists());
        Self { member, new, kept: free.unwrap_or_else(|| "damaged".into()) }
    }

    /// The plan that was begun in `data`, if one was.
    pub(crate) fn read(data: &Path) -> io::Result<Option<Self>> {
        Self::read_from(&data.join(REPAIR_PLAN))
    }

    /// The plan that was done in `data`, if its controller was not started since.
    pub(crate) fn read_done(data: &Path) -> io::Result<Option<Self>> {
        Self::read_from(&data.join(REPAIR_DONE))
    }

    fn read_from(path: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let plan = codec::decode_serde(&bytes);
        plan.map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// Begins: from here on it can only go forward.
    pub(crate) fn begin(&self, data: &Path) -> io::Result<()> {
        let (staged, path) = (data.join("repair-plan.new"), data.join(REPAIR_PLAN));
        let mut file = File::create(&staged)?;
        file.write_all(&codec::encode_serde(self))?;
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        sync(data)
    }

    /// Does what is left to do; where the old files are now.
    pub(crate) fn finish(&self, data: &Path) -> io::Result<PathBuf> {
        while self.step(data)? {}
        Ok(data.join(&self.kept))
    }

    /// Does one thing that is left to do; false if there was none.
    fn step(&self, data: &Path) -> io::Result<bool> {
        let (prepared, kept) = (data.join(PREPARED), data.join(&self.kept));
        let ready = |name: &str| prepared.join(name).exists();
        if ready("db") {
            if !kept.exists() {
                fs::create_dir(&kept)?;
                return sync(data).map(|()| true);
            }
            let old = raft::FILES.into_iter().find(|name| data.join(name).exists());
            match old {
                Some(name) => fs::rename(data.join(name), kept.join(name))?,
                None => fs::rename(prepared.join("db"), data.join("db"))?,
            }
            sync(&kept)?;
        } else if ready("identity") {
            fs::rename(prepared.join("identity"), data.join("identity"))?;
        } else if prepared.exists() {
            fs::remove_dir_all(&prepared)?;
        } else if data.join(REPAIR_PLAN).exists() {
            fs::rename(data.join(REPAIR_PLAN), data.join(REPAIR_DONE))?;
        } else {
            return Ok(false);
        }
        sync(data).map(|()| true)
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of controller 2 whose successor 4 is prepared.
    fn begun() -> (tempfile::TempDir, [u8; 16], [u8; 16]) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        raft::assign(data, 2, 0).unwrap();
        fs::write(data.join("synced"), "a note").unwrap();
        raft::assign(&data.join(PREPARED), 4, 2).unwrap();
        let (old, new) =
            (raft::owner(data).unwrap().1, raft::owner(&data.join(PREPARED)).unwrap().1);
        Plan::new(data, 2, 4).begin(data).unwrap();
        (folder, old, new)
    }

    #[test]
    fn a_repair_that_stopped_anywhere_is_ended_by_the_next() {
        for stop in 0.. {
            let (folder, old, new) = begun();
            let data = folder.path();
            let plan = Plan::read(data).unwrap().unwrap();
            let mut steps = 0;
            while steps < stop && plan.step(data).unwrap() {
                steps += 1;
            }
            let Some(plan) = Plan::read(data).unwrap() else {
                assert!(stop > 6, "the repair has ended after {steps} steps");
                return;
            };
            // Until it has ended, nobody takes what is there for a disk.
            let error = raft::owner(data).unwrap_err().to_string();
            assert!(error.contains("run it again"), "after {steps} steps: {error}");

            let kept = plan.finish(data).unwrap();
            assert_eq!(raft::owner(data).unwrap(), (Some(4), new), "after {steps} steps");
            assert_eq!(raft::last_known(data), Some((2, 4)), "after {steps} steps");
            assert!(!data.join("synced").exists() && !data.join(PREPARED).exists());
            assert_eq!(fs::read(kept.join("synced")).unwrap(), b"a note");
            assert_eq!(raft::owner(&kept).unwrap(), (Some(2), old), "after {steps} steps");
        }
    }
}
