//! Pairs of a column family, in the order of their keys.

use crate::disk::{Bytes, Family};
use crate::error::Error;
use std::marker::PhantomData;
use std::ops::Bound;

/// Bounds of an iterator.
#[derive(Default)]
pub struct ReadOptions {
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
}

impl ReadOptions {
    /// Without effect: there is no cache.
    pub fn fill_cache(&mut self, _: bool) {}

    /// The first key.
    pub fn set_iterate_lower_bound(&mut self, from: impl Into<Vec<u8>>) {
        self.from = Some(from.into());
    }

    /// The first key that is none any more.
    pub fn set_iterate_upper_bound(&mut self, to: impl Into<Vec<u8>>) {
        self.to = Some(to.into());
    }
}

/// Pairs in the order of their keys.
pub struct DBRawIterator<'a> {
    family: Family,
    options: ReadOptions,
    at: Option<(Vec<u8>, Bytes)>,
    of: PhantomData<&'a ()>,
}

impl DBRawIterator<'_> {
    pub(crate) fn new(family: Family, options: ReadOptions) -> Self {
        Self { family, options, at: None, of: PhantomData }
    }

    fn bounds(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let from = self.options.from.clone().map_or(Bound::Unbounded, Bound::Included);
        (from, self.options.to.clone().map_or(Bound::Unbounded, Bound::Excluded))
    }

    fn empty(&self) -> bool {
        matches!((&self.options.from, &self.options.to), (Some(from), Some(to)) if from >= to)
    }

    /// To the first pair.
    pub fn seek_to_first(&mut self) {
        let first = (!self.empty()).then(|| self.family.range(self.bounds()).next()).flatten();
        self.at = first.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// To the last one.
    pub fn seek_to_last(&mut self) {
        let last = (!self.empty()).then(|| self.family.range(self.bounds()).next_back()).flatten();
        self.at = last.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// To the next one.
    pub fn next(&mut self) {
        let Some((key, _)) = self.at.take() else { return };
        let (_, to) = self.bounds();
        let next = self.family.range((Bound::Excluded(key), to)).next();
        self.at = next.map(|(key, value)| (key.clone(), value.clone()));
    }

    /// The pair.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(key, _)| &key[..])
    }

    /// Nothing goes wrong.
    ///
    /// # Errors
    /// None.
    pub fn status(&self) -> Result<(), Error> {
        Ok(())
    }
}
