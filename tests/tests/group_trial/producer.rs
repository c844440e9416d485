//! Records at a steady pace into every partition, and when each was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use streamhouse_client::producer::Delivery;
use streamhouse_client::{Producer, Record};
use streamhouse_tests::{LocalCluster, Stopwatch, micros};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// So often is something sent.
const TICK: Duration = Duration::from_millis(20);

/// For each partition, when each of its offsets was acknowledged.
pub(crate) type Acknowledged = Vec<Vec<u64>>;

/// What was produced.
pub(crate) struct Produced {
    pub(crate) acknowledged: Acknowledged,
    pub(crate) took: Duration,
}

/// A producer at work, on a thread of its own.
pub(crate) struct Pace {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Produced>,
}

impl Pace {
    /// `rate`: records a second into each partition.
    pub(crate) fn start(cluster: &LocalCluster, partitions: u32, rate: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (controllers, stopped) = (cluster.controllers(), stop.clone());
        let work = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(produce(&controllers, partitions, rate, &stopped))
        };
        let thread = thread::Builder::new().name("producer".to_owned()).spawn(work).unwrap();
        Self { stop, thread }
    }

    /// Stops it once everything is acknowledged.
    pub(crate) fn stop(self) -> Produced {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

async fn produce(controllers: &str, partitions: u32, rate: f64, stop: &AtomicBool) -> Produced {
    let producer = Producer::builder().controllers(controllers.split(',')).build().await.unwrap();
    let (sent, answers) = mpsc::unbounded_channel();
    let send = async {
        // Owned here, so that the answers end when the sending does.
        let sent = sent;
        let watch = Stopwatch::start();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut each = 0;
        while !stop.load(Ordering::Relaxed) {
            tick.tick().await;
            while (each as f64) < watch.elapsed().as_secs_f64() * rate {
                for partition in 0..partitions {
                    let record = Record::to("t").partition(partition).value(each.to_string());
                    sent.send((partition, producer.send(record).await.unwrap())).unwrap();
                }
                each += 1;
            }
        }
        watch.elapsed()
    };
    let (took, acknowledged) = tokio::join!(send, take(answers, partitions));
    producer.close().await.unwrap();
    Produced { acknowledged, took }
}

/// Takes the answers in the order in which the records were sent.
async fn take(
    mut answers: mpsc::UnboundedReceiver<(u32, Delivery)>,
    partitions: u32,
) -> Acknowledged {
    let mut acknowledged = vec![Vec::new(); partitions as usize];
    while let Some((partition, delivery)) = answers.recv().await {
        let placed = delivery.await.unwrap();
        let own: &mut Vec<u64> = &mut acknowledged[partition as usize];
        assert_eq!(placed.offset, own.len() as u64, "one producer writes it, each record once");
        own.push(micros());
    }
    acknowledged
}
