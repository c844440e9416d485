//! What the cluster remembers of its controllers: which numbers were given
//! out, and how far each disk had got.
//!
//! A mark says what a disk held when the leader last looked. A controller
//! whose disk holds less than its mark has lost something that it had
//! acknowledged (the disk is an old copy, or its log was cut off), and must
//! not vote or acknowledge as if it knew.

use super::keys::{Key, tag, trailing_id};
use super::kv::{KvError, KvRead, Transaction};
use super::reply::{Effect, Refusal, Reply};
use super::typed;
use bincode::{Decode, Encode};

/// Most disks marked in one entry: voters and learners together.
pub const MAX_CONTROLLERS: usize = 32;

/// BOUND on disks whose numbers are remembered, members or not: past it the
/// lowest number's is forgotten. A member needs it no more; a disk that was
/// never added since then is told to begin anew.
pub const MAX_ALLOTTED: usize = 1_024;

/// How far one disk had got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Mark {
    /// The controller that it belongs to.
    pub node: u64,
    /// The term in which the leader looked: the disk had voted in it, or
    /// accepted its leader.
    pub term: u64,
    /// Term of the last entry that matched the leader's log.
    pub matched_term: u64,
    /// Index of that entry.
    pub matched_index: u64,
}

impl Mark {
    fn reached(&self) -> (u64, u64, u64) {
        (self.term, self.matched_term, self.matched_index)
    }

    /// The later of two marks of one disk.
    pub fn later(self, other: Self) -> Self {
        if other.reached() > self.reached() { other } else { self }
    }
}

/// One disk's mark, as a command carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct DiskMark {
    /// Random, made when the disk was first opened.
    pub disk: [u8; 16],
    /// How far it had got.
    pub mark: Mark,
}

fn mark_key(disk: &[u8; 16]) -> Vec<u8> {
    Key::new(tag::DISK_MARK).bytes(disk).done()
}

fn number_key() -> Vec<u8> {
    Key::new(tag::CONTROLLER_NUMBER).done()
}

fn allocated_key(disk: &[u8; 16]) -> Vec<u8> {
    Key::new(tag::CONTROLLER_DISK).bytes(disk).done()
}

/// The mark of a disk, if it was ever marked.
pub fn mark(kv: &dyn KvRead, disk: &[u8; 16]) -> Result<Option<Mark>, KvError> {
    typed::get(kv, &mark_key(disk))
}

/// The highest number ever given to a controller, 0 before the first.
pub fn highest_number(kv: &dyn KvRead) -> Result<u64, KvError> {
    Ok(typed::get(kv, &number_key())?.unwrap_or(0))
}

/// The number given to a disk, if it ever got one.
pub fn number_of(kv: &dyn KvRead, disk: &[u8; 16]) -> Result<Option<u64>, KvError> {
    typed::get(kv, &allocated_key(disk))
}

/// Remembers the marks; forgets those of disks that are not among them.
pub(super) fn mark_disks(
    tx: &mut Transaction<'_>,
    marks: &[DiskMark],
) -> Result<(Reply, Vec<Effect>), KvError> {
    if marks.len() > MAX_CONTROLLERS {
        let message = format!("{} disks, allowed are {MAX_CONTROLLERS}", marks.len());
        return Ok((Reply::Refused(Refusal::Limit(message)), Vec::new()));
    }
    let (start, end) = Key::new(tag::DISK_MARK).range();
    for (key, _) in tx.scan(&start, &end, usize::MAX)? {
        let disk = trailing_id(&key).ok_or_else(|| typed::malformed(&key))?;
        if marks.iter().all(|marked| marked.disk != disk) {
            tx.delete(key);
        }
    }
    for DiskMark { disk, mark: new } in marks {
        let known = mark(tx, disk)?;
        let later = known.map_or(*new, |known| known.later(*new));
        typed::put(tx, mark_key(disk), &later);
    }
    Ok((Reply::Done, Vec::new()))
}

/// Gives the controller with this disk a number that none ever had. RETRY:
/// the same disk gets the same number again.
pub(super) fn allocate(
    tx: &mut Transaction<'_>,
    disk: &[u8; 16],
    above: u64,
) -> Result<(Reply, Vec<Effect>), KvError> {
    if let Some(number) = number_of(tx, disk)? {
        return Ok((Reply::Controller(number), Vec::new()));
    }
    let Some(number) = highest_number(tx)?.max(above).checked_add(1) else {
        let message = "controller numbers are used up".to_owned();
        return Ok((Reply::Refused(Refusal::Limit(message)), Vec::new()));
    };
    forget_lowest(tx)?;
    typed::put(tx, number_key(), &number);
    typed::put(tx, allocated_key(disk), &number);
    Ok((Reply::Controller(number), Vec::new()))
}

/// Makes room for one more disk's number.
fn forget_lowest(tx: &mut Transaction<'_>) -> Result<(), KvError> {
    let (start, end) = Key::new(tag::CONTROLLER_DISK).range();
    let known = tx.scan(&start, &end, MAX_ALLOTTED)?;
    if known.len() < MAX_ALLOTTED {
        return Ok(());
    }
    let numbered = known.into_iter().map(|(key, value)| {
        let number: u64 = typed::decode(&key, &value)?;
        Ok((number, key))
    });
    let numbered = numbered.collect::<Result<Vec<_>, KvError>>()?;
    if let Some((_, key)) = numbered.into_iter().min() {
        tx.delete(key);
    }
    Ok(())
}

/// Numbers up to `upto` are never given out (again).
pub(super) fn reserve(
    tx: &mut Transaction<'_>,
    upto: u64,
) -> Result<(Reply, Vec<Effect>), KvError> {
    if upto > highest_number(tx)? {
        typed::put(tx, number_key(), &upto);
    }
    Ok((Reply::Done, Vec::new()))
}

#[cfg(test)]
mod tests {
    use super::super::kv::MemoryKv;
    use super::*;

    #[test]
    fn the_numbers_of_so_many_disks_are_remembered() {
        let mut kv = MemoryKv::default();
        let disk = |number: u64| u128::from(number).to_be_bytes();
        for number in 1..=MAX_ALLOTTED as u64 + 1 {
            let mut tx = Transaction::new(&kv);
            // RETRY: a second time as the first.
            for _ in 0..2 {
                let (reply, _) = allocate(&mut tx, &disk(number), 0).unwrap();
                assert_eq!(reply, Reply::Controller(number));
            }
            let writes = tx.into_writes();
            kv.commit(writes);
        }
        let (start, end) = Key::new(tag::CONTROLLER_DISK).range();
        assert_eq!(kv.scan(&start, &end, usize::MAX).unwrap().len(), MAX_ALLOTTED);
        // The lowest is forgotten, and no number is ever given again.
        assert_eq!(number_of(&kv, &disk(1)).unwrap(), None);
        assert_eq!(number_of(&kv, &disk(2)).unwrap(), Some(2));
        assert_eq!(highest_number(&kv).unwrap(), MAX_ALLOTTED as u64 + 1);
    }
}
