//! A steady load of numbered records, and what each acknowledgement promised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use streamhouse_client::producer::{Delivery, ProduceError};
use streamhouse_client::{Producer, Record};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::commands::bench::audit::Place;

/// Records are sent at every such moment, as many as are due.
const TICK: Duration = Duration::from_millis(1);
/// BOUND: records on their way; beyond it the load waits.
const ON_THE_WAY: usize = 1 << 16;
const KEYS_PER_PARTITION: u64 = 8;

/// How many keys the load has; number `n` has key `n % keys`.
pub(super) fn keys(partitions: u32) -> u64 {
    u64::from(partitions) * KEYS_PER_PARTITION
}

/// What was acknowledged so far, and whether partitions take writes again.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By number.
    places: Vec<Option<Place>>,
    /// Only what was sent later counts for those that are awaited.
    since: Option<Instant>,
    awaited: Vec<u32>,
    /// When the last of them took a write.
    last: Option<Instant>,
}

impl Ledger {
    /// From now on these partitions are awaited to acknowledge a record sent after `since`.
    pub(super) fn expect(&self, since: Instant, partitions: &[u32]) {
        let mut state = self.state.lock();
        state.since = Some(since);
        state.awaited = partitions.to_vec();
        state.last = Some(since);
    }

    /// When the last of the awaited partitions took a write.
    pub(super) async fn recovered(&self) -> Instant {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state.lock();
                if let Some(last) = state.last.filter(|_| state.awaited.is_empty()) {
                    return last;
                }
            }
            changed.await;
        }
    }

    fn acknowledged(&self, number: usize, sent: Instant, place: Place) {
        let mut state = self.state.lock();
        if state.places.len() <= number {
            state.places.resize(number + 1, None);
        }
        state.places[number] = Some(place);
        if state.since.is_some_and(|since| sent > since) && state.awaited.contains(&place.0) {
            state.awaited.retain(|awaited| *awaited != place.0);
            state.last = Some(clock::now());
            self.changed.notify_one();
        }
    }
}

/// The load; it runs until it is ended.
pub(super) struct Load {
    producer: Producer,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Result<u64, ProduceError>>,
}

impl Load {
    pub(super) async fn start(
        seeds: Vec<String>,
        topic: &str,
        partitions: u32,
        rate: u32,
    ) -> anyhow::Result<Self> {
        let producer = Producer::builder().controllers(seeds).build().await?;
        producer.partitions(topic).await?;
        let ledger = Arc::new(Ledger::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, inbox) = mpsc::channel(ON_THE_WAY);
        let sender = Sender { producer: producer.clone(), topic: topic.into(), partitions, sent };
        let mut tasks = JoinSet::new();
        tasks.spawn(sender.run(rate, Arc::clone(&stop)));
        tasks.spawn(collect(inbox, Arc::clone(&ledger)));
        Ok(Self { producer, ledger, stop, tasks })
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sends no more, waits for every record's fate; where each was acknowledged, by number.
    pub(super) async fn end(mut self) -> anyhow::Result<Vec<Option<Place>>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut records = 0;
        while let Some(ended) = self.tasks.join_next().await {
            records = records.max(ended??);
        }
        // Those that failed are told by the report: sent and not acknowledged.
        let _ = self.producer.close().await;
        let mut places = std::mem::take(&mut self.ledger.state.lock().places);
        places.resize(usize::try_from(records)?, None);
        Ok(places)
    }
}

type Sent = (usize, Instant, Delivery);

struct Sender {
    producer: Producer,
    topic: String,
    partitions: u32,
    sent: mpsc::Sender<Sent>,
}

impl Sender {
    /// Returns how many records it sent.
    async fn run(self, rate: u32, stop: Arc<AtomicBool>) -> Result<u64, ProduceError> {
        let began = clock::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u64;
            while number < due && !stop.load(Ordering::Relaxed) {
                self.send(number).await?;
                number += 1;
            }
        }
        Ok(number)
    }

    async fn send(&self, number: u64) -> Result<(), ProduceError> {
        let key = (number % keys(self.partitions)).to_string();
        let partition = (number % u64::from(self.partitions)) as u32;
        let record = Record::to(&*self.topic).key(key).value(number.to_string());
        let sent = clock::now();
        let delivery = self.producer.send(record.partition(partition)).await?;
        // The collector ends when this end is dropped, not before.
        let _ = self.sent.send((number as usize, sent, delivery)).await;
        Ok(())
    }
}

async fn collect(
    mut inbox: mpsc::Receiver<Sent>,
    ledger: Arc<Ledger>,
) -> Result<u64, ProduceError> {
    let mut open = FuturesUnordered::new();
    let mut more = true;
    while more || !open.is_empty() {
        tokio::select! {
            Some((number, sent, placed)) = open.next() => match placed {
                Ok(placed) => ledger.acknowledged(number, sent, placed),
                Err(error) => tracing::warn!(number, %error, "a record was not acknowledged"),
            },
            sent = inbox.recv(), if more && open.len() < ON_THE_WAY => match sent {
                Some((number, sent, delivery)) => open.push(async move {
                    let placed: Result<_, ProduceError> = delivery.await;
                    (number, sent, placed.map(|placed| (placed.partition, placed.offset)))
                }),
                None => more = false,
            },
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn only_what_was_sent_after_the_kill_shows_that_a_partition_is_back() {
        let ledger = Ledger::default();
        let before = clock::now();
        let killed = before + Duration::from_millis(1);
        ledger.expect(killed, &[1, 2]);
        ledger.acknowledged(0, before, (1, 0));
        ledger.acknowledged(1, killed + Duration::from_millis(1), (1, 1));
        assert!(ledger.recovered().now_or_never().is_none(), "partition 2 is not back");
        ledger.acknowledged(3, killed + Duration::from_millis(2), (2, 0));
        assert!(ledger.recovered().now_or_never().is_some());
        assert_eq!(ledger.state.lock().places, [Some((1, 0)), Some((1, 1)), None, Some((2, 0))]);
    }
}
