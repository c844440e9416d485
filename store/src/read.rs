//! Reading: whole objects, ranges, the tail, the size.
//!
//! READ: every answer is as long as what was asked for, or an error.

use std::ops::Range;

use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use crate::error::GetError;
use crate::fault::{Fault, FaultKind};
use crate::location::StoreKind;
use crate::store::Store;

impl Store {
    /// The whole object. The caller knows that it is small: the answer is held in memory.
    pub async fn get(&self, key: &str) -> Result<Bytes, GetError> {
        let path = self.path(key).map_err(|fault| self.get_error(fault, key))?;
        let answer = self.inner.objects.get(&path).await.map_err(|e| self.get_fault(&e, key))?;
        let size = answer.meta.size;
        let bytes = answer.bytes().await.map_err(|e| self.get_fault(&e, key))?;
        self.check_length(key, 0, size, bytes)
    }

    /// The bytes `range` of the object; an answer that would be shorter is [`GetError::Short`]. An empty range
    /// is answered without asking the store.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, GetError> {
        let path = self.path(key).map_err(|fault| self.get_error(fault, key))?;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let answer = match self.kind() {
            // One hop to the blocking pool instead of two.
            StoreKind::File => {
                let answer = self.inner.objects.get_ranges(&path, std::slice::from_ref(&range));
                answer.await.map(|ranges| ranges.into_iter().next().unwrap_or_default())
            }
            _ => self.inner.objects.get_range(&path, range.clone()).await,
        };
        match answer {
            Ok(bytes) => self.check_length(key, range.start, wanted, bytes),
            Err(error) => Err(self.range_error(&error, key, range).await),
        }
    }

    /// The object's size and its last `n` bytes (all of it, if it is shorter), in one request where the store
    /// can do that.
    pub async fn get_tail(&self, key: &str, n: u64) -> Result<(u64, Bytes), GetError> {
        let path = self.path(key).map_err(|fault| self.get_error(fault, key))?;
        // Azure has no suffix ranges; nobody has one of no bytes.
        if n == 0 || self.kind() == StoreKind::Azure {
            return self.tail_by_size(key, n).await;
        }
        let options = GetOptions { range: Some(GetRange::Suffix(n)), ..GetOptions::default() };
        let answer = match self.inner.objects.get_opts(&path, options).await {
            Ok(answer) => answer,
            Err(error) => {
                let fault = Fault::of(&error);
                return match fault.kind {
                    // No range of an empty object can be satisfied: S3 says 416, moto sends all of nothing.
                    FaultKind::OutOfRange | FaultKind::Unclear => self.tail_by_size(key, n).await,
                    _ => Err(self.get_error(fault, key)),
                };
            }
        };
        let (size, range) = (answer.meta.size, answer.range.clone());
        let bytes = answer.bytes().await.map_err(|e| self.get_fault(&e, key))?;
        let wanted = n.min(size);
        if range.end != size {
            return Err(self.short(key, size - wanted, wanted, range.end - range.start));
        }
        Ok((size, self.check_length(key, size - wanted, wanted, bytes)?))
    }

    /// The object's size, or `None` if there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, GetError> {
        let path = self.path(key).map_err(|fault| self.get_error(fault, key))?;
        match self.inner.objects.head(&path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => match Fault::of(&error) {
                Fault { kind: FaultKind::NotFound, .. } => Ok(None),
                fault => Err(self.get_error(fault, key)),
            },
        }
    }

    async fn tail_by_size(&self, key: &str, n: u64) -> Result<(u64, Bytes), GetError> {
        let Some(size) = self.head(key).await? else {
            return Err(GetError::NotFound { store: self.url().to_owned(), key: key.to_owned() });
        };
        let from = size.saturating_sub(n);
        let bytes = self.get_range(key, from..size).await?;
        Ok((size, bytes))
    }

    /// Local stores do not say in a way that can be matched that a range starts past the end: look at the size.
    async fn range_error(
        &self,
        error: &object_store::Error,
        key: &str,
        range: Range<u64>,
    ) -> GetError {
        let fault = Fault::of(error);
        let wanted = range.end - range.start;
        match fault.kind {
            FaultKind::OutOfRange => self.short(key, range.start, wanted, 0),
            FaultKind::Unclear if !self.is_remote() => match self.head(key).await {
                Ok(Some(size)) if size < range.end => {
                    self.short(key, range.start, wanted, size.saturating_sub(range.start))
                }
                _ => self.get_error(fault, key),
            },
            _ => self.get_error(fault, key),
        }
    }

    fn check_length(
        &self,
        key: &str,
        from: u64,
        wanted: u64,
        bytes: Bytes,
    ) -> Result<Bytes, GetError> {
        let got = bytes.len() as u64;
        if got == wanted { Ok(bytes) } else { Err(self.short(key, from, wanted, got)) }
    }

    fn short(&self, key: &str, from: u64, wanted: u64, got: u64) -> GetError {
        GetError::Short { store: self.url().to_owned(), key: key.to_owned(), from, wanted, got }
    }

    fn get_fault(&self, error: &object_store::Error, key: &str) -> GetError {
        self.get_error(Fault::of(error), key)
    }

    pub(crate) fn get_error(&self, fault: Fault, key: &str) -> GetError {
        fault.into_get(self.url(), key)
    }
}
