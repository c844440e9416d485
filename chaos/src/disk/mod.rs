//! A disk that can lose its power, hang and fail: `interpose.c` between a process and its C library.
//!
//! A power cut is played on the files that the killed process left behind: whatever no sync had covered may be gone.
//! Files are cut back to some size between the last synced one and the present one, files that no synced folder lists
//! may be gone altogether, new names may not have come about. What is not modelled: a file that was removed coming
//! back, and a name that was overwritten keeping its old file.

mod clock;
mod synced;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

pub(crate) use clock::Clock;

use crate::random::Random;
use synced::Synced;

const SOURCE: &str = include_str!("interpose.c");
const PAGE: u64 = 4096;

/// The library to be preloaded; made when first needed. It has no name in a folder, so nothing is left of it, however
/// this process ends: others find it among the files that this one has open.
fn library() -> io::Result<&'static Path> {
    static LIBRARY: OnceLock<Result<(File, PathBuf), String>> = OnceLock::new();
    let made = LIBRARY.get_or_init(|| {
        let file = compile().map_err(|error| error.to_string())?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Ok((file, path.into()))
    });
    match made {
        Ok((_, library)) => Ok(library),
        Err(error) => Err(io::Error::other(error.as_str())),
    }
}

fn compile() -> io::Result<File> {
    let folder = tempfile::tempdir()?;
    let (source, library) = (folder.path().join("interpose.c"), folder.path().join("libdisk.so"));
    fs::write(&source, SOURCE)?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compiled = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output();
    let named = |error| io::Error::other(format!("the C compiler {compiler:?}: {error}"));
    let compiled = compiled.map_err(named)?;
    if !compiled.status.success() {
        let said = String::from_utf8_lossy(&compiled.stderr).into_owned();
        return Err(io::Error::other(format!("interpose.c does not compile: {said}")));
    }
    File::open(library)
}

/// What a power cut may leave of bytes that no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Any number of the first of them.
    Short,
    /// Any number of the first of them, with pages of zeros among them.
    Torn,
}

/// How often calls met with what a control file said since it was written.
fn struck(control: &Path) -> u64 {
    fs::metadata(beside(control)).map_or(0, |counted| counted.len())
}

fn beside(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(".struck");
    name.into()
}

/// Writes a control file, from which on what meets with it is counted.
fn tell(control: &Path, what: &str) -> io::Result<()> {
    match fs::remove_file(beside(control)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::write(control, what),
    }
}

/// A disk: a folder, and where the processes that write there note their syncs, all in one order.
#[derive(Clone, Debug)]
pub struct Disk {
    data: PathBuf,
    log: PathBuf,
    control: PathBuf,
    /// Folders of it may hold very many files.
    large: bool,
}

impl Disk {
    /// The disk that `data` lies on, of one process; its notes lie beside that.
    pub fn under(data: &Path) -> Self {
        let beside = |extension: &str| data.with_extension(extension);
        let (log, control) = (beside("syncs"), beside("disk"));
        Self { data: data.to_owned(), log, control, large: false }
    }

    /// The same of several processes, whose folders may be large. Their notes have one order: what one of them has
    /// removed may be another's file from there on, and a name that one gave may be covered by the sync of another.
    pub(crate) fn shared(data: &Path) -> Self {
        Self { large: true, ..Self::under(data) }
    }

    /// What a process must have in its environment for its disk to be this one. Needs a C compiler, once.
    pub fn environment(&self) -> io::Result<Vec<(&'static str, PathBuf)>> {
        let mut environment = vec![
            ("LD_PRELOAD", library()?.to_owned()),
            ("DISK_LOG", self.log.clone()),
            ("DISK_CONTROL", self.control.clone()),
        ];
        environment.extend(self.large.then(|| ("DISK_NAMES", "1".into())));
        Ok(environment)
    }

    /// From now on no sync returns.
    pub fn stall(&self) -> io::Result<()> {
        tell(&self.control, "stall")
    }

    /// From now on every sync fails.
    pub fn fail(&self) -> io::Result<()> {
        tell(&self.control, "fail")
    }

    /// From now on no file grows.
    pub fn fill(&self) -> io::Result<()> {
        tell(&self.control, "full")
    }

    /// How many calls met with what it was told to do last.
    pub fn struck(&self) -> u64 {
        struck(&self.control)
    }

    /// It works again, and has room.
    pub fn mend(&self) -> io::Result<()> {
        fs::write(&self.control, "")
    }

    /// Plays a power cut; the processes must be dead. `random` decides what is lost. How many bytes were.
    pub fn cut(&self, random: &mut Random, tail: Tail) -> io::Result<u64> {
        let synced = Synced::read(&self.log)?;
        let lost = cut_folder(&self.data, &synced, random, tail)?;
        self.settle()?;
        Ok(lost)
    }

    /// What is on the disk now is what it holds. The processes must be dead.
    pub(crate) fn settle(&self) -> io::Result<()> {
        let mut lines = String::new();
        note_all(&self.data, self.large, &mut lines)?;
        fs::write(&self.log, lines)
    }
}

fn cut_folder(folder: &Path, synced: &Synced, random: &mut Random, tail: Tail) -> io::Result<u64> {
    let listed = synced.folders.get(&fs::metadata(folder)?.ino());
    let mut lost = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type()?.is_dir() {
            lost += cut_folder(&path, synced, random, tail)?;
            continue;
        }
        if let Some(listed) = listed
            && !listed.values().any(|known| *known == name)
            && random.below(2) == 0
        {
            match listed.get(&entry.ino()) {
                Some(old) => fs::rename(&path, folder.join(old))?,
                None => {
                    lost += entry.metadata()?.len();
                    fs::remove_file(&path)?;
                }
            }
            continue;
        }
        if synced.unnamed.contains(&path) && random.below(2) == 0 {
            lost += entry.metadata()?.len();
            fs::remove_file(&path)?;
            continue;
        }
        let kept = synced.sizes.get(&entry.ino()).copied().unwrap_or(0);
        lost += cut_file(&path, kept, random, tail)?;
    }
    Ok(lost)
}

fn cut_file(path: &Path, kept: u64, random: &mut Random, tail: Tail) -> io::Result<u64> {
    let size = fs::metadata(path)?.len();
    let Some(doubtful) = size.checked_sub(kept).filter(|doubtful| *doubtful > 0) else {
        return Ok(0);
    };
    let left = match random.below(3) {
        0 => kept,
        1 => size,
        _ => kept + random.below(doubtful),
    };
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(left)?;
    let mut at = kept;
    while tail == Tail::Torn && at < left {
        let end = ((at / PAGE + 1) * PAGE).min(left);
        if random.below(3) == 0 {
            let zeros = vec![0; usize::try_from(end - at).expect("a page")];
            file.write_all_at(&zeros, at)?;
        }
        at = end;
    }
    Ok(size - left)
}

fn note_all(folder: &Path, large: bool, lines: &mut String) -> io::Result<()> {
    use std::fmt::Write as _;
    let inode = fs::metadata(folder)?.ino();
    let mut entries = format!("D {inode}\n");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let _ = writeln!(entries, "E {} {name}", entry.ino());
        if entry.file_type()?.is_dir() {
            note_all(&entry.path(), large, lines)?;
        } else {
            let _ = writeln!(lines, "F {} {}", entry.ino(), entry.metadata()?.len());
        }
    }
    if !large {
        lines.push_str(&entries);
        lines.push_str(".\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_does_not_return_is_counted_and_one_that_nobody_asked_for_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (data, file) = (folder.path().join("data"), folder.path().join("data/file"));
        fs::create_dir(&data).unwrap();
        let disk = Disk::under(&data);
        disk.stall().unwrap();
        assert_eq!(disk.struck(), 0);
        let mut syncs = Command::new("dd")
            .args(["if=/dev/zero", "bs=1", "count=1", "conv=fsync", "status=none"])
            .arg(format!("of={}", file.display()))
            .envs(disk.environment().unwrap())
            .spawn()
            .unwrap();
        while disk.struck() == 0 {
            assert!(syncs.try_wait().unwrap().is_none());
        }
        disk.mend().unwrap();
        assert!(syncs.wait().unwrap().success());
        assert_eq!(disk.struck(), 1);
        disk.stall().unwrap();
        assert_eq!(disk.struck(), 0);
    }
}
