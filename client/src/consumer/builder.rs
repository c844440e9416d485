//! Builds a [`Consumer`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use streamhouse_store::Store;

use super::cache::{CacheError, SegmentCache, SegmentCacheBuilder};
use super::error::ConsumeError;
use super::group::{Assignor, GroupOptions, RebalanceListener};
use super::handle::Consumer;
use super::subscription::Subscription;
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
    /// From the first record that is not older than this, by its timestamp and this machine's clock; from the end if
    /// all are older.
    Since(Duration),
}

/// Options of a [`Consumer`]; each says its default.
#[derive(Clone, Debug)]
pub struct ConsumerBuilder {
    pub(super) pool: PoolConfig,
    pub(super) group_id: Option<Arc<str>>,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) assigned: Vec<TopicPartition>,
    pub(super) offset_reset: OffsetReset,
    pub(super) group: GroupOptions,
    pub(super) auto_commit: bool,
    pub(super) auto_commit_interval: Duration,
    pub(super) max_poll_records: usize,
    pub(super) fetch_memory: usize,
    pub(super) object_store: Option<Store>,
    pub(super) pattern: Option<String>,
    pub(super) metadata_refresh: Duration,
    pub(super) shared_cache: Option<SegmentCache>,
    /// Of a cache to be opened, if any.
    pub(super) cache: Option<SegmentCacheBuilder>,
}

impl Default for ConsumerBuilder {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            group_id: None,
            topics: Vec::new(),
            assigned: Vec::new(),
            offset_reset: OffsetReset::default(),
            group: GroupOptions::default(),
            auto_commit: true,
            auto_commit_interval: Duration::from_secs(5),
            max_poll_records: 10_000,
            fetch_memory: 64 << 20,
            object_store: None,
            pattern: None,
            metadata_refresh: Duration::from_secs(30),
            shared_cache: None,
            cache: None,
        }
    }
}

impl ConsumerBuilder {
    /// Addresses of some controllers, `host:port`; the others are learned. Required.
    pub fn controllers<S: Into<String>>(mut self, all: impl IntoIterator<Item = S>) -> Self {
        self.pool.set_controllers(all);
        self
    }

    /// The group whose offsets are read at start and committed. With topics or a pattern the consumer is a member of the
    /// group, and the controllers share the partitions out among its members; with [`assign`](Self::assign) it is none,
    /// reads what it names, and can commit only while the group has no members. Default: none; the consumer then starts
    /// where [`offset_reset`](Self::offset_reset) says and commits nothing.
    pub fn group_id(mut self, group: impl Into<Arc<str>>) -> Self {
        self.group_id = Some(group.into());
        self
    }

    /// Static membership: names this consumer among the group's members. One that is closed or dies and comes again within
    /// its session timeout, as the same instance, gets what it had, and nobody else is disturbed. Of two at once the later
    /// one stays; the earlier one's poll fails with [`ConsumeError::ReplacedMember`]. Default: none.
    pub fn group_instance_id(mut self, instance: impl Into<Arc<str>>) -> Self {
        self.group.instance_id = Some(instance.into());
        self
    }

    /// What the member calls itself, for operators. Default: `streamhouse-client`.
    pub fn client_id(mut self, client: impl Into<Arc<str>>) -> Self {
        self.group.client_id = client.into();
        self
    }

    /// How this member wants the group's partitions shared out; the controllers use the assignor that most members ask
    /// for. Default: [`Assignor::Sticky`].
    pub fn assignor(mut self, assignor: Assignor) -> Self {
        self.group.assignor = assignor;
        self
    }

    /// How long the controllers may hear nothing of this member before others get its partitions, 500 ms to 30 min. A
    /// member that cannot reach them for so long stops by itself. Default: 10 s.
    pub fn session_timeout(mut self, timeout: Duration) -> Self {
        self.group.session_timeout = timeout;
        self
    }

    /// How often the member says that it lives, at most a third of the session timeout. Default: a tenth of it, 3 s at
    /// most.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.group.heartbeat_interval = Some(interval);
        self
    }

    /// How long the application may take between two polls; after that the member leaves its group, and joins again when
    /// it polls. Default: 5 min.
    pub fn max_poll_interval(mut self, interval: Duration) -> Self {
        self.group.max_poll_interval = interval;
        self
    }

    /// Hears of the partitions that come and go. Default: none.
    pub fn rebalance_listener(mut self, listener: impl RebalanceListener + 'static) -> Self {
        self.group.listener = Some(Arc::new(listener));
        self
    }

    /// Reads all partitions of these topics, which must exist; partitions that they get later are noticed. Without
    /// topics, a pattern or partitions the consumer waits for [`Consumer::subscribe`] and the like.
    pub fn topics<S: Into<Arc<str>>>(mut self, topics: impl IntoIterator<Item = S>) -> Self {
        self.topics.extend(topics.into_iter().map(Into::into));
        self
    }

    /// Reads these partitions, given as `(topic, partition)`.
    pub fn assign<P: Into<TopicPartition>>(mut self, all: impl IntoIterator<Item = P>) -> Self {
        self.assigned.extend(all.into_iter().map(Into::into));
        self
    }

    /// Reads all partitions of every topic whose whole name matches this regular expression, those that are created
    /// later included. Not together with topics or partitions.
    pub fn topics_matching(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    /// How often topics and partitions that are new are looked for. Default: 30 s. What came into being after the
    /// consumer subscribed is read from its beginning, unless the group has an offset there.
    pub fn metadata_refresh(mut self, every: Duration) -> Self {
        self.metadata_refresh = every;
        self
    }

    /// Reads through this cache, which several consumers may share. Default: none.
    pub fn cache(mut self, cache: SegmentCache) -> Self {
        self.shared_cache = Some(cache);
        self
    }

    /// Keeps segments in this folder, so that they are fetched once. Consumers of one process that name the same folder
    /// share it; the sizes are those of the first. It may be deleted at any time. Default: no cache.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache = Some(self.cache.unwrap_or_default().dir(dir));
        self
    }

    /// How large the folder may become. Default: 1 GiB.
    pub fn cache_size_bytes(mut self, bytes: u64) -> Self {
        self.cache = Some(self.cache.unwrap_or_default().size_bytes(bytes));
        self
    }

    /// How many bytes of segments are kept in memory, besides `fetch_memory`. Default: 32 MiB where there is a
    /// `cache_dir`, else none.
    pub fn cache_memory_bytes(mut self, bytes: usize) -> Self {
        self.cache = Some(self.cache.unwrap_or_default().memory_bytes(bytes));
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

    /// How many bytes a consumer may hold: fetched, decoded ahead of poll, or handed out by the last
    /// one. Default: 64 MiB. One larger batch passes, alone.
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

    /// How long no controller at all may be reachable before the first one was; never longer than a call may take.
    /// Default: 15 s.
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
        self.group.validate()?;
        if self.pattern.is_some() && !(self.topics.is_empty() && self.assigned.is_empty()) {
            let problem = "a pattern stands alone: name no topics or partitions besides";
            return Err(ConfigError::new("topics_matching", problem));
        }
        if self.metadata_refresh.is_zero() {
            return Err(ConfigError::new("metadata_refresh", "must not be zero"));
        }
        if self.group_id.as_deref() == Some("") {
            return Err(ConfigError::new("group_id", "must not be empty"));
        }
        ConfigError::check("max_poll_records", self.max_poll_records, 1..=usize::MAX)?;
        ConfigError::check("fetch_memory", self.fetch_memory, 1 << 16..=usize::MAX)
    }

    /// What to read from the start.
    pub(super) fn take_subscription(&mut self) -> Result<Subscription, ConfigError> {
        match self.pattern.take() {
            Some(pattern) => Subscription::pattern(&pattern),
            None => Ok(Subscription::Topics {
                names: self.topics.drain(..).collect(),
                partitions: self.assigned.drain(..).collect(),
            }),
        }
    }

    /// The cache asked for, if any.
    pub(super) async fn open_cache(&self) -> Result<Option<SegmentCache>, CacheError> {
        match (&self.shared_cache, &self.cache) {
            (Some(cache), _) => Ok(Some(cache.clone())),
            (None, Some(options)) => Ok(Some(options.clone().open().await?)),
            (None, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_work_are_refused_by_name() {
        let builder = Consumer::builder().topics(["a"]);
        assert!(builder.validate().is_ok());
        assert!(builder.clone().group_id("").validate().is_err());
        assert!(builder.clone().max_poll_records(0).validate().is_err());
        let error = builder.topics_matching("b").validate().unwrap_err();
        assert_eq!(error.option, "topics_matching");
    }
}
