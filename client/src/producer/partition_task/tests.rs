//! A partition's task by itself: no controller, no agent, answers made up.

use super::*;
use crate::errors::Refusal;
use crate::producer::buffer::BatchRules;
use crate::producer::config::Config;
use crate::producer::record::Record;
use crate::producer::room::BatchRoom;
use crate::routing::{Metadata, PoolConfig, TopicRoute};
use crate::types::{Topic, TopicDescription};
use streamhouse_segment::batch::Compression;
use streamhouse_segment::ids::TopicId;

/// A task with that many batches in flight.
fn task(in_flight: u64) -> PartitionTask {
    let controllers = vec!["127.0.0.1:1".to_owned()];
    let pool = PoolConfig { controllers, ..PoolConfig::default() };
    let config = Config { pool: pool.clone(), enable_idempotence: false, ..Config::default() };
    let rules = BatchRules {
        records: 1,
        bytes: config.batch_bytes,
        linger: config.linger,
        compression: Compression::None,
        limits: config.limits(),
    };
    let shared = Arc::new(Shared::new(config, Metadata::new(pool).unwrap()));
    let route = TopicRoute::new(TopicDescription {
        topic: Topic {
            id: TopicId::from_bytes([1; 16]),
            name: "orders".to_owned(),
            partitions: 1,
            config: Default::default(),
        },
        partitions: Vec::new(),
        applied: 1,
    });
    let buffer = Arc::new(Buffer::new("orders".into(), 0, rules));
    let topic = Arc::new(OpenTopic::new(route, vec![buffer.clone()]));
    let mut task = PartitionTask::new(shared, topic, 0);
    for _ in 0..in_flight {
        let record = Record::to("orders").value("v");
        let room = BatchRoom::new(&task.shared.room, false);
        drop(buffer.append(&record, 1, 0, room).unwrap());
    }
    task.fill();
    while task.window.next_to_send().is_some() {}
    task
}

fn answer(batch: u64, outcome: Outcome) -> Attempt {
    Attempt { batch, link_number: 0, outcome }
}

fn refused() -> Outcome {
    let refusal = Refusal { code: Code::NotLeaseHolder, message: "moved".to_owned() };
    Outcome::Refused { refusal, address: None }
}

#[tokio::test]
async fn a_late_answer_of_the_old_link_proves_nothing_of_the_next() {
    let mut task = task(2);
    // Both answers are there; the second one is looked at first.
    assert_eq!(task.settle(answer(2, refused())).await, None);
    let placed = Outcome::Placed { base_offset: 7, applied: 3 };
    assert_eq!(task.settle(answer(1, placed.clone())).await, None);
    assert!(!task.proven);
    task.window.resume();
    task.window.next_to_send().unwrap();
    let link_number = task.link_number;
    task.settle(Attempt { batch: 2, link_number, outcome: placed }).await;
    assert!(task.proven);
}

#[tokio::test]
async fn a_wait_that_is_over_is_no_reason_to_wake_while_a_fate_is_open() {
    let mut task = task(2);
    task.settle(answer(1, refused())).await;
    let past = clock::now();
    task.hold_until = Some(past);
    assert!(task.timer().is_none_or(|at| at > past + Duration::from_secs(1)), "{:?}", task.timer());
    task.settle(answer(2, refused())).await;
    assert_eq!(task.timer(), Some(past));
}
