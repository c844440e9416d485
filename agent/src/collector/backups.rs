//! The backups that lie in the cluster's own store, by their names: see `controller/src/backup/place.rs`.

use streamhouse_proto::v1::KeptBackups;
use streamhouse_segment::{BackupName, ClusterId, Generation};
use streamhouse_store::{GetError, Store};

/// BOUND: names of a listing in memory.
const PAGE: usize = 1_000;

/// Looks for them now.
pub(super) async fn kept(
    store: &Store,
    cluster: ClusterId,
    own: Generation,
) -> Result<KeptBackups, GetError> {
    let folder = format!("{cluster}/backups");
    let mut kept = KeptBackups { oldest_index: None, of_others: false };
    let mut after: Option<String> = None;
    loop {
        let page = store.list(&folder, after.as_deref(), PAGE).await?;
        for listed in &page {
            note(&mut kept, own, &listed.key);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
            _ => return Ok(kept),
        }
    }
}

fn note(kept: &mut KeptBackups, own: Generation, key: &str) {
    let name = key.rsplit('/').next().unwrap_or(key);
    let index = match name.parse::<BackupName>() {
        Ok(name) if name.generation == own => name.index,
        Ok(_) => return kept.of_others = true,
        // One that was given a name of its own may be of any index and generation.
        Err(_) if name.ends_with(BackupName::SUFFIX) => {
            kept.of_others = true;
            0
        }
        Err(_) => return,
    };
    kept.oldest_index = Some(kept.oldest_index.map_or(index, |oldest| oldest.min(index)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_backup_of_the_generation_counts_and_others_are_seen() {
        let own = Generation { counter: 2, random: 7 };
        let of = |generation, index| format!("c/backups/{}", BackupName { generation, index });
        let mut kept = KeptBackups { oldest_index: None, of_others: false };
        note(&mut kept, own, &of(own, 90));
        note(&mut kept, own, &of(own, 40));
        note(&mut kept, own, "c/backups/readme.txt");
        assert_eq!(kept, KeptBackups { oldest_index: Some(40), of_others: false });
        note(&mut kept, own, &of(Generation { counter: 1, random: 7 }, 3));
        assert_eq!(kept, KeptBackups { oldest_index: Some(40), of_others: true });
        note(&mut kept, own, "c/backups/mine.backup");
        assert_eq!(kept, KeptBackups { oldest_index: Some(0), of_others: true });
    }
}
