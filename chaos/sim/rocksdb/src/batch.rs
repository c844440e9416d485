//! Changes that happen together.

use crate::db::ColumnFamily;
use crate::disk::Bytes;

pub(crate) enum Step {
    Put(usize, Vec<u8>, Bytes),
    Delete(usize, Vec<u8>),
    DeleteRange(usize, Vec<u8>, Vec<u8>),
}

/// Changes that happen together.
#[derive(Default)]
pub struct WriteBatch {
    pub(crate) steps: Vec<Step>,
    bytes: usize,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put_cf(
        &mut self,
        family: &ColumnFamily,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) {
        self.bytes += key.as_ref().len() + value.as_ref().len();
        self.steps.push(Step::Put(family.0, key.as_ref().to_vec(), value.as_ref().into()));
    }

    /// Removes a key.
    pub fn delete_cf(&mut self, family: &ColumnFamily, key: impl AsRef<[u8]>) {
        self.bytes += key.as_ref().len();
        self.steps.push(Step::Delete(family.0, key.as_ref().to_vec()));
    }

    /// Removes the keys from one on to before another.
    pub fn delete_range_cf(
        &mut self,
        family: &ColumnFamily,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
    ) {
        self.bytes += from.as_ref().len() + to.as_ref().len();
        let (from, to) = (from.as_ref().to_vec(), to.as_ref().to_vec());
        self.steps.push(Step::DeleteRange(family.0, from, to));
    }

    /// How large it is, about.
    pub fn size_in_bytes(&self) -> usize {
        self.bytes
    }
}
