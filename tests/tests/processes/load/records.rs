//! Records into all partitions of the topic `t`, by an idempotent producer: so many a second, as long as the
//! acknowledgements keep up.
use std::time::Duration;

use streamhouse_client::producer::Delivery;
use streamhouse_client::{Producer, Record};
use streamhouse_tests::{LocalCluster, Stopwatch};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::{Background, Course};
use crate::promised::Sent;

/// 2,000 records a second.
const EVERY: Duration = Duration::from_millis(5);
const AT_ONCE: usize = 10;
/// BOUND: records that wait for their acknowledgement.
const UNDER_WAY: usize = 4_096;

/// The load.
pub(crate) struct Records(Background<Vec<Sent>>);

impl std::ops::Deref for Records {
    type Target = Background<Vec<Sent>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Records {
    /// Ends it: every record was acknowledged, the one that waited longest after so long.
    pub(crate) fn acknowledged(self) -> (Vec<Sent>, Duration) {
        let (sent, longest) = self.0.stop();
        for Sent { value, result, .. } in &sent {
            assert!(result.is_ok(), "{value}: {result:?}");
        }
        (sent, longest)
    }
}

/// One that waits for its acknowledgement.
struct Waiting {
    partition: u32,
    value: String,
    since: Stopwatch,
    delivery: Delivery,
}

/// Starts it; its records begin with `tag`.
pub(crate) fn records(cluster: &LocalCluster, tag: &'static str) -> Records {
    let addresses = cluster.controllers();
    let partitions = cluster.partitions("t").len() as u32;
    Records(Background::start("records acknowledged", move |course: Course| async move {
        let producer = Producer::builder().controllers(addresses.split(','));
        let producer = producer.build().await.unwrap();
        let (under_way, waiting) = mpsc::channel(UNDER_WAY);
        let ((), sent) = tokio::join!(
            send(&producer, tag, partitions, &course, under_way),
            hear(&course, waiting)
        );
        sent
    }))
}

async fn send(
    producer: &Producer,
    tag: &str,
    partitions: u32,
    course: &Course,
    under_way: mpsc::Sender<Waiting>,
) {
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number: u32 = 0;
    while course.goes_on() {
        pace.tick().await;
        for _ in 0..AT_ONCE {
            let (partition, value) = (number % partitions, format!("{tag},{number}"));
            let record = Record::to("t").partition(partition).value(value.clone());
            let since = Stopwatch::start();
            let delivery = producer.send(record).await.unwrap();
            let one = Waiting { partition, value, since, delivery };
            assert!(under_way.send(one).await.is_ok(), "nobody waits for acknowledgements");
            number += 1;
        }
    }
}

async fn hear(course: &Course, mut waiting: mpsc::Receiver<Waiting>) -> Vec<Sent> {
    let mut sent = Vec::new();
    while let Some(Waiting { partition, value, since, delivery }) = waiting.recv().await {
        let result = delivery.await;
        if result.is_ok() {
            course.done(1, since.elapsed());
        }
        sent.push(Sent { partition, value, result });
    }
    sent
}
