//! What the fetcher decides, without anything at work.

use std::sync::Arc;

use streamhouse_proto::v1;
use streamhouse_segment::ids::{ClusterId, Generation, ObjectId, SessionId, TopicId};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::TaskTracker;

use super::look_ups::PLANS_PER_LOOK_UP;
use super::{Fetcher, Parts};
use crate::clock;
use crate::consumer::budget::Memory;
use crate::consumer::builder::OffsetReset;
use crate::consumer::error::ConsumeError;
use crate::consumer::metrics::Counters;
use crate::consumer::plan::Slice;
use crate::consumer::source::Source;
use crate::consumer::targets::{Place, Targets};
use crate::convert;
use crate::routing::{Metadata, PoolConfig};
use crate::types::TopicPartition;

const TOPIC: [u8; 16] = [3; 16];

/// A fetcher whose controllers nobody asks.
fn fetcher() -> Fetcher {
    let config = PoolConfig { controllers: vec!["nobody:1".to_owned()], ..PoolConfig::default() };
    let metadata = Metadata::new(config).unwrap();
    let counters = Arc::new(Counters::default());
    Fetcher::new(Parts {
        cluster: ClusterId::from_bytes([1; 16]),
        reset: OffsetReset::Earliest,
        source: Arc::new(Source::new(None, None, metadata.clone(), counters.clone())),
        metadata,
        targets: Arc::new(Targets::default()),
        ready: Arc::default(),
        counters,
        memory: Arc::new(Memory::new(1 << 20)),
        updates: mpsc::channel(1).1,
        news: Arc::new(Notify::new()),
        tasks: TaskTracker::new(),
    })
}

fn place(partition: u32, high_watermark: u64) -> Place {
    let at = Arc::new(TopicPartition::new("t", partition));
    Place { at, topic: TopicId::from_bytes(TOPIC), high_watermark }
}

/// The watch says that the partition ends there.
fn told(partition: u32, high_watermark: u64) -> v1::WatchResponse {
    let partition = Some(convert::topic_partition(TopicId::from_bytes(TOPIC), partition));
    let state = v1::PartitionState { partition, high_watermark, ..Default::default() };
    v1::WatchResponse { partitions: vec![state], ..Default::default() }
}

#[tokio::test]
async fn an_end_that_was_told_before_the_partition_is_read_counts() {
    let mut fetcher = fetcher();
    // The assignment is on its way, with the end as it was before.
    fetcher.watched(told(0, 7));
    fetcher.parts.targets.assign(0, place(0, 5), Some(5));
    fetcher.follow_targets();
    assert_eq!(fetcher.slots[0].high_watermark, 7);
    assert!(fetcher.slots[0].wants_plan(clock::now()), "or it would wait for the next record");
    // What was told counts once: a partition that comes again comes with an end of its own.
    assert!(fetcher.passed.is_empty());
}

#[tokio::test]
async fn partitions_beyond_one_look_up_get_their_turn() {
    let mut fetcher = fetcher();
    let (count, now) = (PLANS_PER_LOOK_UP + 88, clock::now());
    for slot in 0..count {
        fetcher.parts.targets.assign(slot, place(slot as u32, 100), Some(0));
    }
    fetcher.follow_targets();
    let mut next =
        || -> Vec<usize> { fetcher.next_asked(now).into_iter().map(|asked| asked.slot).collect() };
    assert_eq!(next(), (0..PLANS_PER_LOOK_UP).collect::<Vec<_>>());
    // The first want another plan already, as busy ones do.
    let rest: Vec<usize> = (PLANS_PER_LOOK_UP..count).chain(0..PLANS_PER_LOOK_UP - 88).collect();
    assert_eq!(next(), rest);
    assert_eq!(next()[0], PLANS_PER_LOOK_UP - 88);
}

#[tokio::test]
async fn a_run_that_failed_behind_a_good_one_is_planned_again_after_a_while() {
    let mut fetcher = fetcher();
    fetcher.parts.targets.assign(0, place(0, 20), Some(0));
    fetcher.follow_targets();
    let slice = |sequence: u64, base_offset: u64| Slice {
        base_offset,
        last_offset: base_offset + 9,
        object: ObjectId {
            cluster: ClusterId::from_bytes([1; 16]),
            generation: Generation { counter: 1, random: 1 },
            session: SessionId(1),
            sequence,
        },
        start: 0,
        end: 5,
        crc32c: 0,
    };
    fetcher.slots[0].plan(vec![slice(1, 0), slice(2, 10)], 20);
    fetcher.slots[0].next_run();
    let second = fetcher.slots[0].next_run().unwrap().id;
    let gone = ConsumeError::TopicDeleted { topic: "t".into() };
    fetcher.stop(0, Some(second), gone);
    let slot = &fetcher.slots[0];
    // READ: what is before it comes first.
    assert!(!slot.stopped);
    assert_eq!((slot.runs.len(), slot.planned_to), (1, 10));
    // Without a wait it would be asked for again and again while the first is handed out.
    let now = clock::now();
    assert!(!slot.wants_plan(now) && slot.wants_plan(now + super::LATER));
}
