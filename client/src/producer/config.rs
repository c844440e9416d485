//! A producer's options and their defaults.

use std::time::Duration;

use streamhouse_segment::batch::{Compression, Limits};

use super::partitioner::Partitioner;
use super::room::BATCH_OVERHEAD;
use crate::errors::ConfigError;
use crate::routing::{BreakerRule, PoolConfig};

/// Whoever waits longer than this between two tries has written something else than was meant.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3600);

/// In bytes.
const LONGEST_NAME: usize = 255;

#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) pool: PoolConfig,
    pub(super) batch_size: u32,
    pub(super) batch_bytes: usize,
    pub(super) linger: Duration,
    pub(super) compression: Compression,
    pub(super) partitioner: Partitioner,
    pub(super) delivery_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) retry_backoff: Duration,
    pub(super) retry_backoff_max: Duration,
    pub(super) buffer_memory: usize,
    pub(super) max_in_flight: usize,
    pub(super) max_record_bytes: usize,
    pub(super) max_block: Duration,
    pub(super) breaker: BreakerRule,
    pub(super) enable_idempotence: bool,
    pub(super) producer_name: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pool: PoolConfig::default(),
            batch_size: 10_000,
            batch_bytes: 1 << 20,
            linger: Duration::from_millis(2),
            compression: Compression::Lz4,
            partitioner: Partitioner::default(),
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            buffer_memory: 64 << 20,
            max_in_flight: 5,
            max_record_bytes: Limits::default().max_record_bytes,
            max_block: Duration::from_secs(120),
            breaker: BreakerRule::default(),
            enable_idempotence: true,
            producer_name: None,
        }
    }
}

impl Config {
    pub(super) fn limits(&self) -> Limits {
        Limits { max_record_bytes: self.max_record_bytes, ..Limits::default() }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let largest = 8 << 20;
        ConfigError::check("batch_size", self.batch_size, 1..=1_000_000)?;
        ConfigError::check("batch_bytes", self.batch_bytes, 1..=largest)?;
        ConfigError::check("max_record_bytes", self.max_record_bytes, 1..=largest)?;
        ConfigError::check("max_in_flight", self.max_in_flight, 1..=64)?;
        let least = self.batch_bytes.max(self.max_record_bytes) + BATCH_OVERHEAD + 1024;
        ConfigError::check("buffer_memory", self.buffer_memory, least..=(usize::MAX >> 4))?;
        self.validate_name()?;
        if self.request_timeout.is_zero() {
            return Err(ConfigError::new("request_timeout", "must not be zero"));
        }
        for (option, wait) in
            [("retry_backoff", self.retry_backoff), ("retry_backoff_max", self.retry_backoff_max)]
        {
            if wait > LONGEST_BACKOFF {
                return Err(ConfigError::new(option, "must not be longer than an hour"));
            }
        }
        if self.breaker.pause > LONGEST_BACKOFF {
            return Err(ConfigError::new("circuit_breaker", "must not pause longer than an hour"));
        }
        if self.delivery_timeout < self.linger {
            let problem = format!(
                "{:?} is shorter than linger, which is {:?}",
                self.delivery_timeout, self.linger
            );
            return Err(ConfigError::new("delivery_timeout", problem));
        }
        Ok(())
    }

    fn validate_name(&self) -> Result<(), ConfigError> {
        let Some(name) = &self.producer_name else { return Ok(()) };
        if !self.enable_idempotence {
            return Err(ConfigError::new("producer_name", "needs enable_idempotence"));
        }
        ConfigError::check("producer_name", name.len(), 1..=LONGEST_NAME)?;
        if name.chars().any(char::is_control) {
            return Err(ConfigError::new("producer_name", "must not hold control characters"));
        }
        Ok(())
    }
}
