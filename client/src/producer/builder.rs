//! Builds a [`Producer`].

use std::time::Duration;

use streamhouse_segment::batch::Compression;

use super::config::Config;
use super::error::ProduceError;
use super::handle::Producer;
use super::partitioner::Partitioner;
use crate::routing::BreakerRule;

/// Options of a [`Producer`]; each says its default.
#[derive(Clone, Debug, Default)]
pub struct ProducerBuilder {
    config: Config,
}

macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        impl ProducerBuilder {
            $(
                $(#[$doc])*
                pub fn $name(mut self, $name: $type) -> Self {
                    self.config.$name = $name;
                    self
                }
            )*
        }
    };
}

options! {
    /// A batch is sent once it has this many records. Default: 10,000; 1 to 1,000,000.
    batch_size: u32,
    /// A batch is sent once its records take this many bytes, before compression. Default: 1 MiB; at most 8 MiB.
    batch_bytes: usize,
    /// How long a batch waits for more records before it is sent, unless it is full. At high rates it hardly matters: the
    /// window of batches in flight fills them. Default: 2 ms.
    linger: Duration,
    /// How batches are compressed. Default: LZ4. A batch of 64 KiB or more that hardly gets shorter is sent as it is.
    compression: Compression,
    /// How partitions are chosen for records that do not name one. Default: by key.
    partitioner: Partitioner,
    /// How long a record may take from `send` to its acknowledgement, all retries together; `Duration::MAX` is for
    /// ever. Default: 120 s.
    delivery_timeout: Duration,
    /// How long one try may stay unanswered. Default: 30 s.
    request_timeout: Duration,
    /// The wait before a batch is sent again, with jitter. It stays that while a lease may be on its way to another
    /// agent, for the first 3 s of a partition's failures; from then on it doubles with each. Default: 100 ms; at most
    /// 1 h.
    retry_backoff: Duration,
    /// The longest such wait. Default: 1 s; at most 1 h.
    retry_backoff_max: Duration,
    /// How many bytes of records may be waiting or on their way, 2 KiB for each batch included; `send` waits for room.
    /// Default: 64 MiB.
    buffer_memory: usize,
    /// How many batches of one partition may be in flight. Default: 5; 1 to 64.
    max_in_flight: usize,
    /// The largest record, encoded. Default: 1 MiB, which is also the agents' limit; at most 8 MiB.
    max_record_bytes: usize,
    /// How long `send` may wait for room in the buffer and for a topic's partitions, together; then it fails with
    /// [`BufferFull`](ProduceError::BufferFull) or [`TopicNotLoaded`](ProduceError::TopicNotLoaded). `Duration::ZERO`
    /// means never to wait, `Duration::MAX` for ever. Default: 120 s, as long as the delivery timeout: by then what took
    /// the room has been acknowledged or has failed.
    max_block: Duration,
    /// Every record is written exactly once and in order, whatever fails and is sent again. Without it a batch whose
    /// outcome is unknown may be in the log twice. Default: on.
    enable_idempotence: bool,
}

impl ProducerBuilder {
    /// Addresses of some controllers, `host:port`; the others are learned. Required.
    pub fn controllers<S: Into<String>>(mut self, all: impl IntoIterator<Item = S>) -> Self {
        self.config.pool.set_controllers(all);
        self
    }

    /// An agent that failed `failures` times in a row, unreachable or without an answer, is left alone for `pause`:
    /// batches for it fail their try at once, and their partitions' routes are looked up again. `0` failures switches
    /// this off. Default: 5, 500 ms; at most 1 h.
    pub fn circuit_breaker(mut self, failures: u32, pause: Duration) -> Self {
        self.config.breaker = BreakerRule { failures, pause };
        self
    }

    /// A stable name, 1 to 255 bytes: a producer that is built under it takes over from whoever had it before, whose
    /// records are refused from then on. Default: none; every producer is its own.
    pub fn producer_name(mut self, name: impl Into<String>) -> Self {
        self.config.producer_name = Some(name.into());
        self
    }

    /// How long no controller at all may be reachable before the first one was; never longer than a call may take.
    /// Default: 15 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.pool.connect_timeout = timeout;
        self
    }

    /// How long one call to the controllers may take, all tries together. Default: 15 s.
    pub fn operation_timeout(mut self, timeout: Duration) -> Self {
        self.config.pool.operation_timeout = timeout;
        self
    }

    /// Checks the options and asks the controllers who they are.
    pub async fn build(self) -> Result<Producer, ProduceError> {
        self.config.validate()?;
        Producer::start(self.config).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn an_option_that_cannot_work_is_named() {
        for (builder, option) in [
            (Producer::builder().batch_size(0), "batch_size"),
            (Producer::builder().batch_bytes(64 << 20), "batch_bytes"),
            (Producer::builder().max_in_flight(65), "max_in_flight"),
            (Producer::builder().buffer_memory(1 << 20), "buffer_memory"),
            (Producer::builder().linger(Duration::from_secs(121)), "delivery_timeout"),
            (Producer::builder().request_timeout(Duration::ZERO), "request_timeout"),
            (Producer::builder().retry_backoff(Duration::MAX), "retry_backoff"),
            (Producer::builder().retry_backoff_max(Duration::MAX), "retry_backoff_max"),
            (Producer::builder().circuit_breaker(5, Duration::MAX), "circuit_breaker"),
            (Producer::builder().producer_name(""), "producer_name"),
            (Producer::builder().producer_name("a\nb"), "producer_name"),
            (Producer::builder().producer_name("x".repeat(256)), "producer_name"),
            (Producer::builder().producer_name("x").enable_idempotence(false), "producer_name"),
        ] {
            assert_eq!(builder.config.validate().unwrap_err().option, option);
        }
    }
}
