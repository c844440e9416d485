//! Builds a [`Consumer`].

use std::sync::Arc;
use std::time::Duration;

use streamhouse_store::Store;

use super::error::ConsumeError;
use super::handle::Consumer;
use crate::errors::ConfigError;
use crate::routing::PoolConfig;
use crate::types::TopicPartition;

/// Where to read from when there is no committed offset, or when the position is not in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OffsetReset {
    /// From the first offset that is kept.
    Earliest,
    /// From the end: only what comes from now on. The default.
    #[default]
    Latest,
    /// Not at all: it is an error.
    None,
}

/// Options of a [`Consumer`]; each says its default.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    pub(super) pool: PoolConfig,
    pub(super) group_id: Option<Arc<str>>,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) assigned: Vec<TopicPartition>,
    pub(super) offset_reset: OffsetReset,
    pub(super) auto_commit: bool,
    pub(super) auto_commit_interval: Duration,
    pub(super) max_poll_records: usize,
    pub(super) fetch_memory: usize,
    pub(super) object_store: Option<Store>,
}

impl Default for ConsumerBuilder {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            group_id: None,
            topics: Vec::new(),
            assigned: Vec::new(),
            offset_reset: OffsetReset::default(),
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            max_poll_records: 10_000,
            fetch_memory: 64 << 20,
            object_store: None,
        }
    }
}

impl ConsumerBuilder {
    /// Addresses of some controllers, `host:port`; the others are learned. Required.
    pub fn controllers<S: Into<String>>(mut self, all: impl IntoIterator<Item = S>) -> Self {
        self.pool.set_controllers(all);
        self
    }

    /// The group whose offsets are read at start and committed. Default: none; the consumer then starts where
    /// [`offset_reset`](Self::offset_reset) says and commits nothing.
    pub fn group_id(mut self, group: impl Into<Arc<str>>) -> Self {
        self.group_id = Some(group.into());
        self
    }

    /// Reads all partitions of these topics, which must exist.
    pub fn topics<S: Into<Arc<str>>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Reads these partitions, given as `(topic, partition)`.
    pub fn assign<P: Into<TopicPartition>>(mut self, all: impl IntoIterator<Item = P>) -> Self {
        self.assigned.extend(all.into_iter().map(Into::into));
        self
    }

    /// Where to read from when there is no committed offset, or when the position is not in the log. Default: the
    /// latest.
    pub fn offset_reset(mut self, reset: OffsetReset) -> Self {
        self.offset_reset = reset;
        self
    }

    /// Commits by itself, in `poll` and in `close`, what the application got in earlier polls. Default: on; without a
    /// group it means nothing.
    pub fn auto_commit(mut self, on: bool) -> Self {
        self.auto_commit = on;
        self
    }

    /// How often. Default: 5 s.
    pub fn auto_commit_interval(mut self, interval: Duration) -> Self {
        self.auto_commit_interval = interval;
        self
    }

    /// The most records one poll hands out. Default: 10,000.
    pub fn max_poll_records(mut self, records: usize) -> Self {
        self.max_poll_records = records;
        self
    }

    /// How many bytes may be fetched and decoded ahead of poll. Default: 64 MiB. One fetch of up to 1 MiB, or one
    /// larger slice, may go beyond it, decompressed.
    pub fn fetch_memory(mut self, bytes: usize) -> Self {
        self.fetch_memory = bytes;
        self
    }

    /// The object store to read segments from. Default: the one that the cluster names, opened by its URL and the
    /// environment's credentials.
    pub fn object_store(mut self, store: Store) -> Self {
        self.object_store = Some(store);
        self
    }

    /// How long no controller at all may be reachable before the first one was. Default: as long as a call.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.pool.connect_timeout = timeout;
        self
    }

    /// How long one call to the controllers may take, all tries together. Default: 15 s.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.pool.operation_timeout = timeout;
        self
    }

    /// Checks the options, looks the topics and the group's offsets up, and starts reading ahead.
    pub async fn build(self) -> Result<Consumer, ConsumeError> {
        self.validate()?;
        Consumer::start(self).await
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if self.topics.is_empty() && self.assigned.is_empty() {
            return Err(ConfigError::new("topics", "nothing to read: name topics or partitions"));
        }
        if self.group_id.as_deref() == Some("") {
            return Err(ConfigError::new("group_id", "must not be empty"));
        }
        ConfigError::check("max_poll_records", self.max_poll_records, 1..=usize::MAX)?;
        ConfigError::check("fetch_memory", self.fetch_memory, 1 << 16..=usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_of_nothing_is_refused() {
        let error = Consumer::builder().validate().unwrap_err();
        assert_eq!(error.option, "topics");
        let builder = Consumer::builder().topics(["a"]);
        assert!(builder.validate().is_ok());
        assert!(builder.clone().group_id("").validate().is_err());
        assert!(builder.max_poll_records(0).validate().is_err());
    }
}
