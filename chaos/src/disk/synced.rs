//! What the syncs of a disk covered, as `interpose.c` noted it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

#[derive(Default)]
pub(super) struct Synced {
    /// By inode.
    pub(super) sizes: HashMap<u64, u64>,
    /// Folder's inode; in it, file's inode to name.
    pub(super) folders: HashMap<u64, HashMap<u64, String>>,
    /// Names that no sync of their folder covered.
    pub(super) unnamed: HashSet<PathBuf>,
}

/// Names that no sync has covered yet, with their positions in the log, by their folder's inode.
type Names = HashMap<u64, Vec<(usize, PathBuf)>>;

impl Synced {
    /// Of all processes that write to the disk, in the order in which they did.
    pub(super) fn read(log: &Path) -> io::Result<Self> {
        let mut synced = Self::default();
        let text = match fs::read_to_string(log) {
            Ok(text) => text,
            // Nobody has synced anything yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(synced),
            Err(error) => return Err(error),
        };
        let broken = |line: &str| io::Error::other(format!("{}: {line}", log.display()));
        let mut folder = (0, HashMap::new());
        let (mut names, mut inodes) = (Names::new(), HashMap::new());
        let mut at = 0;
        for line in text.lines() {
            let position = at;
            at += line.len() + 1;
            let mut fields = line.splitn(3, ' ');
            let kind = fields.next().unwrap_or_default();
            let inode = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
            let rest = fields.next().unwrap_or_default();
            match kind {
                "F" => {
                    let size = rest.parse().map_err(|_| broken(line))?;
                    synced.sizes.insert(inode, size);
                }
                "U" => drop(synced.sizes.remove(&inode)),
                "D" => folder = (inode, HashMap::new()),
                "E" => drop(folder.1.insert(inode, rest.to_owned())),
                "." => {
                    let (inode, entries) = std::mem::take(&mut folder);
                    synced.folders.insert(inode, entries);
                }
                "N" => {
                    let path = PathBuf::from(line.get(2..).unwrap_or_default());
                    let parent = path.parent().unwrap_or(Path::new("")).to_owned();
                    let inode = *inodes.entry(parent).or_insert_with_key(|parent| {
                        // One that is gone has lost its names with it.
                        fs::metadata(parent).map_or(0, |meta| meta.ino())
                    });
                    names.entry(inode).or_default().push((position, path));
                }
                "S" => {
                    let covered: usize = rest.parse().map_err(|_| broken(line))?;
                    let names = names.entry(inode).or_default();
                    names.retain(|(position, _)| *position >= covered);
                }
                _ => return Err(broken(line)),
            }
        }
        synced.unnamed.extend(names.into_values().flatten().map(|(_, path)| path));
        Ok(synced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_once_its_folder_was_synced_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let (log, objects) = (folder.path().join("log"), folder.path().join("objects"));
        fs::create_dir(&objects).unwrap();
        let inode = fs::metadata(&objects).unwrap().ino();
        let named = |name: &str| format!("N {}\n", objects.join(name).display());
        // The sync began before the second name came about.
        let before = named("a");
        let lines = [&before, &named("b"), &format!("S {inode} {}\n", before.len()), "F 7 100\n"];
        fs::write(&log, lines.concat()).unwrap();
        let synced = Synced::read(&log).unwrap();
        assert_eq!(synced.unnamed, [objects.join("b")].into());
        assert_eq!(synced.sizes, [(7, 100)].into());
        let nothing = Synced::read(&folder.path().join("none")).unwrap();
        assert!(nothing.sizes.is_empty() && nothing.unnamed.is_empty());
    }

    #[test]
    fn what_one_process_removed_may_be_another_s_file_from_there_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        // The number of a file that one has removed is given to another's, which is synced then.
        fs::write(&log, "F 7 100\nU 7\nF 7 30\nF 8 5\nU 8\n").unwrap();
        assert_eq!(Synced::read(&log).unwrap().sizes, [(7, 30)].into());
    }
}
