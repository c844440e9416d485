//! A disk that can lose its power, hang and fail: `disk/interpose.c` between a process and its C library.
//!
//! A power cut is played on the files that the killed process left behind: whatever no sync had covered may be gone.
//! Files are cut back to some size between the last synced one and the present one, files that no synced folder lists
//! may be gone altogether, new names may not have come about. What is not modelled: a file that was removed coming
//! back, and a name that was overwritten keeping its old file.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirEntryExt as _, FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/disk/interpose.c");
const PAGE: u64 = 4096;

/// The library to be preloaded; made when first needed.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, library) = LIBRARY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let library = folder.path().join("libdisk.so");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let done = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
            .arg(&library)
            .args([SOURCE, "-ldl"])
            .status()
            .expect("a C compiler is there");
        assert!(done.success(), "{SOURCE} compiles");
        (folder, library)
    });
    library
}

/// What a power cut may leave of bytes that no sync covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Any number of the first of them.
    Short,
    /// Any number of the first of them, with pages of zeros among them.
    Torn,
}

/// One process's disk: a folder, and where its syncs are noted.
#[derive(Clone, Debug)]
pub struct Disk {
    data: PathBuf,
    log: PathBuf,
    control: PathBuf,
}

impl Disk {
    /// The disk that `data` lies on; its notes lie beside that.
    pub fn under(data: &Path) -> Self {
        let beside = |extension: &str| data.with_extension(extension);
        Self { data: data.to_owned(), log: beside("syncs"), control: beside("disk") }
    }

    /// What a process must have in its environment for its disk to be this one.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", library().to_owned()),
            ("DISK_LOG", self.log.clone()),
            ("DISK_CONTROL", self.control.clone()),
        ]
    }

    /// From now on no sync returns.
    pub fn stall(&self) {
        fs::write(&self.control, "stall").expect("the control file can be written");
    }

    /// From now on every sync fails.
    pub fn fail(&self) {
        fs::write(&self.control, "fail").expect("the control file can be written");
    }

    /// It works again.
    pub fn mend(&self) {
        fs::write(&self.control, "").expect("the control file can be written");
    }

    /// Plays a power cut; the process must be dead. `random` decides what is lost.
    pub fn cut(&self, random: &mut Random, tail: Tail) {
        let synced = Synced::read(&self.log);
        self.cut_folder(&self.data, &synced, random, tail);
        // What is on the disk now is what it holds.
        let mut lines = String::new();
        note_all(&self.data, &mut lines);
        fs::write(&self.log, lines).expect("the log can be written");
    }

    fn cut_folder(&self, folder: &Path, synced: &Synced, random: &mut Random, tail: Tail) {
        let inode = fs::metadata(folder).expect("the folder is there").ino();
        let listed = synced.folders.get(&inode);
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if entry.file_type().expect("it has a type").is_dir() {
                self.cut_folder(&path, synced, random, tail);
                continue;
            }
            if let Some(listed) = listed
                && !listed.values().any(|known| *known == name)
                && random.below(2) == 0
            {
                match listed.get(&entry.ino()) {
                    Some(old) => fs::rename(&path, folder.join(old)).expect("it can be renamed"),
                    None => fs::remove_file(&path).expect("it can be removed"),
                }
                continue;
            }
            let kept = synced.sizes.get(&entry.ino()).copied().unwrap_or(0);
            cut_file(&path, kept, random, tail);
        }
    }
}

fn cut_file(path: &Path, kept: u64, random: &mut Random, tail: Tail) {
    let size = fs::metadata(path).expect("the file is there").len();
    let Some(doubtful) = size.checked_sub(kept).filter(|doubtful| *doubtful > 0) else { return };
    let left = match random.below(3) {
        0 => kept,
        1 => size,
        _ => kept + random.below(doubtful),
    };
    let file = OpenOptions::new().write(true).open(path).expect("the file can be opened");
    file.set_len(left).expect("the file can be cut");
    if tail == Tail::Short {
        return;
    }
    let mut at = kept;
    while at < left {
        let end = ((at / PAGE + 1) * PAGE).min(left);
        if random.below(3) == 0 {
            let zeros = vec![0; usize::try_from(end - at).expect("a page")];
            file.write_all_at(&zeros, at).expect("the file can be written");
        }
        at = end;
    }
}

fn note_all(folder: &Path, lines: &mut String) {
    use std::fmt::Write as _;
    let inode = fs::metadata(folder).expect("the folder is there").ino();
    let mut entries = format!("D {inode}\n");
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let _ = writeln!(entries, "E {} {name}", entry.ino());
        if entry.file_type().expect("it has a type").is_dir() {
            note_all(&entry.path(), lines);
        } else {
            let size = File::open(entry.path()).and_then(|f| f.metadata()).map_or(0, |m| m.len());
            let _ = writeln!(lines, "F {} {size}", entry.ino());
        }
    }
    lines.push_str(&entries);
    lines.push_str(".\n");
}

/// What the syncs covered.
#[derive(Default)]
struct Synced {
    /// By inode.
    sizes: HashMap<u64, u64>,
    /// Folder's inode; in it, file's inode to name.
    folders: HashMap<u64, HashMap<u64, String>>,
}

impl Synced {
    fn read(log: &Path) -> Self {
        let mut synced = Self::default();
        let text = fs::read_to_string(log).expect("the process has synced something");
        let mut folder = (0, HashMap::new());
        for line in text.lines() {
            let mut fields = line.splitn(3, ' ');
            let kind = fields.next().unwrap_or_default();
            let inode = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
            let rest = fields.next().unwrap_or_default();
            match kind {
                "F" => drop(synced.sizes.insert(inode, rest.parse().expect("a size"))),
                "U" => drop(synced.sizes.remove(&inode)),
                "D" => folder = (inode, HashMap::new()),
                "E" => drop(folder.1.insert(inode, rest.to_owned())),
                "." => {
                    let (inode, entries) = std::mem::take(&mut folder);
                    synced.folders.insert(inode, entries);
                }
                other => panic!("{}: {other}", log.display()),
            }
        }
        synced
    }
}

/// Numbers that look random and are the same for the same seed (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
