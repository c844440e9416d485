//! Power cuts amid snapshots and purges: of controllers that make a snapshot every moment, at any point of their lives,
//! their start included; of all at once, or of one of them. `STREAMHOUSE_POWER_CUTS` says how many cuts are played.
mod controllers;
mod writers;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_tests::{Random, Tail, until};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use self::controllers::Controllers;
use self::writers::{ENTRY_BYTES, Ledger, PARTITIONS, Writer, group};
use crate::disk::{client, cuts};

const PATIENCE: Duration = Duration::from_secs(60);
/// A call without an answer for so long is made again elsewhere.
const CALL: Duration = Duration::from_millis(500);
const WRITERS: usize = 8;
/// A log of so many entries shows whether it was purged.
const ENOUGH: u64 = 2_500;

/// Controllers under a load that never ends, and what was seen of them.
struct Trial {
    runtime: Runtime,
    controllers: Controllers,
    clients: Vec<MetadataClient<Channel>>,
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    /// None of them ever ends by itself.
    writers: JoinSet<()>,
    /// Whether the writers write.
    go: watch::Sender<bool>,
    /// State hashes by applied index.
    hashes: BTreeMap<u64, String>,
    /// Who led, by term.
    leaders: BTreeMap<u64, u64>,
    /// The terms that the controllers were in, by their ids.
    terms: BTreeMap<u64, u64>,
    /// All lost their power since the leader was seen last.
    cut_everywhere: bool,
}

impl Trial {
    fn start(count: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let controllers = Controllers::start(count, PARTITIONS);
        let client = |n| client(&runtime, &controllers.controller_address(n).to_string());
        let clients: Vec<_> = (1..=count).map(client).collect();
        let topic = until("the topic is listed", PATIENCE, || {
            let request = v1::ListTopicsRequest { linearizable: true };
            let listed = runtime.block_on(clients[0].clone().list_topics(request)).ok()?;
            Some(listed.into_inner().topics.into_iter().find(|t| t.name == "t")?.topic_id)
        });
        let go = watch::Sender::new(true);
        let ledgers: Vec<Arc<Mutex<Ledger>>> = (0..WRITERS).map(|_| Arc::default()).collect();
        let mut writers = JoinSet::new();
        for (number, ledger) in ledgers.iter().enumerate() {
            let writer = Writer {
                clients: clients.clone(),
                topic: topic.clone(),
                number,
                ledger: Arc::clone(ledger),
                go: go.subscribe(),
            };
            writers.spawn_on(writer.run(), runtime.handle());
        }
        let (hashes, leaders, terms) = Default::default();
        let cut_everywhere = false;
        Self {
            runtime,
            controllers,
            clients,
            ledgers,
            writers,
            go,
            hashes,
            leaders,
            terms,
            cut_everywhere,
        }
    }

    /// What each controller says of itself, all of them.
    fn statuses(&self) -> Option<Vec<v1::GetControllerResponse>> {
        self.runtime.block_on(async {
            let mut all = Vec::with_capacity(self.clients.len());
            for client in &self.clients {
                let mut client = client.clone();
                let call = client.get_controller(v1::GetControllerRequest {});
                all.push(tokio::time::timeout(CALL, call).await.ok()?.ok()?.into_inner());
            }
            Some(all)
        })
    }

    /// Lets the writers rest, and finds everything acknowledged at controllers that agree.
    fn check(&mut self) {
        if let Some(ended) = self.writers.try_join_next() {
            panic!("a writer ended: {ended:?}");
        }
        self.go.send_replace(false);
        let promised: Vec<_> = self.ledgers.iter().map(|l| l.lock().unwrap().clone()).collect();
        self.agree();
        for (writer, promised) in promised.iter().enumerate() {
            let found = until("the offsets are read", PATIENCE, || self.offsets(writer));
            for (partition, offset) in &promised.acknowledged {
                let found = found.get(partition);
                let kept = found.is_some_and(|found| found >= offset);
                assert!(kept, "{}/{partition}: {offset} is lost: {found:?}", group(writer));
            }
            let tried = self.ledgers[writer].lock().unwrap().tried;
            assert!(found.values().all(|found| *found <= tried), "{tried}: {found:?}");
        }
        self.go.send_replace(true);
    }

    /// The offsets of a writer's group, by partition.
    fn offsets(&self, writer: usize) -> Option<BTreeMap<u32, u64>> {
        let mut client = self.clients[writer % self.clients.len()].clone();
        let request = v1::FetchOffsetsRequest {
            group: group(writer),
            partitions: Vec::new(),
            linearizable: true,
            min_applied: 0,
        };
        let answer = self.runtime.block_on(client.fetch_offsets(request)).ok()?.into_inner();
        let offsets = answer.offsets.into_iter();
        Some(offsets.map(|o| (o.partition.unwrap_or_default().partition, o.offset)).collect())
    }

    /// All have applied the same, under one leader, in a term that can be.
    fn agree(&mut self) {
        let all = until("all controllers have applied the same", PATIENCE, || {
            self.controllers.assert_alive();
            let all = self.statuses()?;
            for status in &all {
                // PURE: whoever it is, and in whichever of its lives.
                let hash = self.hashes.entry(status.applied).or_insert(status.state_hash.clone());
                assert_eq!(*hash, status.state_hash, "at index {}", status.applied);
                if status.term == 0 {
                    // It starts, and has not said yet what it has on its disk.
                    return None;
                }
                let term = self.terms.entry(status.id).or_default();
                assert!(status.term >= *term, "{}: term {} after {term}", status.id, status.term);
                *term = status.term;
            }
            let place = |s: &v1::GetControllerResponse| (s.applied, s.term, s.leader_id);
            let one = all.iter().all(|status| place(status) == place(&all[0]));
            (one && all[0].leader_id != 0).then_some(all)
        });
        let (term, leader) = (all[0].term, all[0].leader_id);
        // A vote that was lost would be given again, in a term that has had its leader.
        let last = self.leaders.last_key_value().map_or(0, |(term, _)| *term);
        assert!(term >= last && !(self.cut_everywhere && term == last), "{term} after {last}");
        assert_eq!(*self.leaders.entry(term).or_insert(leader), leader, "term {term}");
        self.cut_everywhere = false;
    }

    /// One cut, of all or of one of several: soon after the last one, whether anybody serves yet or not; or once all is
    /// well and snapshots are being made.
    fn cut(&mut self, random: &mut Random, tail: Tail, early: bool) {
        if !early {
            self.check();
            let before = self.controllers.snapshots();
            until("a snapshot is built", PATIENCE, || {
                (self.controllers.snapshots() > before).then_some(())
            });
        }
        std::thread::sleep(Duration::from_millis(random.below(600)));
        let count = self.clients.len();
        let mut victims: Vec<_> = (1..=count).collect();
        if count > 1 && random.below(2) == 0 {
            victims = vec![1 + random.below(count as u64) as usize];
        }
        self.cut_everywhere |= victims.len() == count;
        self.controllers.cut(&victims, random, tail);
    }

    fn acknowledged(&self) -> u64 {
        let last = |l: &Arc<Mutex<Ledger>>| l.lock().unwrap().tried - 1;
        self.ledgers.iter().map(last).sum()
    }
}

fn play(count: usize, cuts: u64, tails: &[Tail]) {
    let mut trial = Trial::start(count);
    let mut random = Random::new(11);
    let (mut built, mut with_snapshots) = (0, 0);
    for number in 0..cuts {
        let tail = *random.choose(tails).unwrap();
        trial.cut(&mut random, tail, number % 3 != 0);
        let now = trial.controllers.snapshots();
        with_snapshots += u64::from(now > built);
        built = now;
    }
    until("enough is written to fill a log", PATIENCE, || {
        (trial.acknowledged() >= ENOUGH).then_some(())
    });
    trial.check();
    let acknowledged = trial.acknowledged();
    println!(
        "{cuts} power cuts of {count} controllers, {built} snapshots in {with_snapshots} of the rounds, \
         {acknowledged} acknowledged writes, all there"
    );
    assert!(with_snapshots * 3 >= cuts, "snapshots in {with_snapshots} of {cuts} rounds only");
    for n in 1..=count {
        let all = acknowledged * ENTRY_BYTES;
        // It is purged some time after the snapshot.
        let what = format!("controller {n} purges its log of {all} bytes or more");
        let bytes = until(&what, PATIENCE, || {
            trial.controllers.log_bytes(n).filter(|bytes| *bytes < all / 2)
        });
        println!("controller {n}: {bytes} bytes of log are left");
    }
}

#[test]
fn a_power_cut_amid_snapshots_and_purges_loses_nothing_acknowledged() {
    play(1, cuts(10), &[Tail::Short]);
}

#[test]
fn a_power_cut_amid_snapshots_with_torn_writes_loses_nothing_acknowledged() {
    play(1, cuts(10), &[Tail::Torn]);
}

#[test]
fn a_power_cut_of_one_or_all_amid_snapshots_and_purges_loses_nothing_acknowledged() {
    play(3, cuts(48) / 6, &[Tail::Short, Tail::Torn]);
}
