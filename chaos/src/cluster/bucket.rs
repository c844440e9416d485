//! The object store of a trial: one bucket in memory, and for each requester an S3 endpoint of its own before it, so
//! that faults can be had by one and not by another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use streamhouse_store::endpoint::{Endpoint, Fate, Interference, Memory};
use streamhouse_store::{Store, StoreOptions};

use super::node::Node;
use crate::error::ChaosError;
use crate::history::{Operation, Outcome};
use crate::random::Random;
use crate::recorder::{HARNESS, Recorder};

/// What agents are started with, and what the cluster is then known to use.
const URL: &str = "s3://chaos/data";
const PREFIX: &str = "/chaos/data/";

/// How an object store can fail one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// 500 Internal Server Error.
    InternalError,
    /// 503 Slow Down.
    SlowDown,
    /// No answer, nothing done.
    Timeout,
    /// Done, and the answer lost: half of them by a broken connection, half by silence.
    LostAnswer,
    /// 200 with an error in the body.
    ErrorInOk,
    /// Half of what was asked for.
    Truncated,
    /// One bit of what was asked for.
    BitFlip,
    /// Between a tenth of a second and three.
    SlowTail,
    /// Credentials that have run out.
    ExpiredCredentials,
}

impl StoreFault {
    /// A request that has it is answered late, or never.
    fn keeps_waiting(self) -> bool {
        match self {
            Self::Timeout | Self::LostAnswer | Self::SlowTail => true,
            Self::InternalError
            | Self::SlowDown
            | Self::ErrorInOk
            | Self::Truncated
            | Self::BitFlip
            | Self::ExpiredCredentials => false,
        }
    }
}

/// Which faults are on, for whom, and how many requests have had one.
#[derive(Debug)]
struct Faults {
    on: BTreeMap<Node, (StoreFault, u64)>,
    struck: u64,
    random: Random,
}

/// See the module.
pub(crate) struct Bucket {
    objects: Memory,
    faults: Arc<Mutex<Faults>>,
    endpoints: BTreeMap<Node, Endpoint>,
    recorder: Arc<Recorder>,
}

/// What one requester's endpoint asks.
struct Requests {
    node: Node,
    faults: Arc<Mutex<Faults>>,
    recorder: Arc<Recorder>,
}

impl Bucket {
    pub(super) fn new(random: Random, recorder: Arc<Recorder>) -> Self {
        let faults = Faults { on: BTreeMap::new(), struck: 0, random };
        Self {
            objects: Memory::new(),
            faults: Arc::new(Mutex::new(faults)),
            endpoints: BTreeMap::new(),
            recorder,
        }
    }

    /// Opens an endpoint for `node`.
    pub(super) async fn serve(&mut self, node: Node) -> Result<SocketAddr, ChaosError> {
        let (faults, recorder) = (Arc::clone(&self.faults), Arc::clone(&self.recorder));
        let requests = Arc::new(Requests { node, faults, recorder });
        let endpoint = Endpoint::start_over(self.objects.clone(), requests).await;
        let endpoint = endpoint.map_err(ChaosError::io("opening an S3 endpoint"))?;
        let address = endpoint.address();
        self.endpoints.insert(node, endpoint);
        Ok(address)
    }

    /// The store as one who asks by way of `proxy`.
    pub(super) fn store(proxy: SocketAddr) -> Result<Store, ChaosError> {
        StoreOptions::new()
            .without_environment()
            .request_timeout(Duration::from_secs(10))
            .set_all(Endpoint::options_by(proxy))
            .open(URL)
            .map_err(|error| ChaosError::Harness(error.to_string()))
    }

    /// A folder instead of the bucket.
    pub(super) fn folder(folder: &Path) -> Result<Store, ChaosError> {
        let opened = Store::open(&format!("file://{}", folder.display()));
        opened.map_err(|error| ChaosError::Harness(error.to_string()))
    }

    /// From now on `percent` of these requesters' requests have this fault.
    pub(crate) fn fail(&self, nodes: &[Node], fault: StoreFault, percent: u64) {
        let mut faults = self.faults.lock();
        faults.struck = 0;
        faults.on = nodes.iter().map(|node| (*node, (fault, percent))).collect();
    }

    /// All is well again. How many requests had the fault, and whose may still wait because of it.
    pub(super) fn heal(&self) -> (u64, Vec<Node>) {
        let mut faults = self.faults.lock();
        let on = std::mem::take(&mut faults.on).into_iter();
        let waiting = on.filter(|(_, (fault, _))| fault.keeps_waiting()).map(|(node, _)| node);
        (std::mem::take(&mut faults.struck), waiting.collect())
    }
}

impl Interference for Requests {
    fn fate(&self, method: &Method, _: &str) -> Fate {
        let mut faults = self.faults.lock();
        let Some((fault, percent)) = faults.on.get(&self.node).copied() else { return Fate::Pass };
        if faults.random.below(100) >= percent {
            return Fate::Pass;
        }
        let fate = fate(fault, method, &mut faults.random);
        faults.struck += u64::from(fate != Fate::Pass);
        fate
    }

    fn done(&self, method: &Method, path: &str, status: StatusCode) {
        let Some(object) = path.strip_prefix(PREFIX).filter(|_| status.is_success()) else {
            return;
        };
        let object = object.to_owned();
        if *method == Method::PUT {
            self.recorder.record(HARNESS, Outcome::Ok, Operation::Stored { object });
        } else if *method == Method::DELETE {
            self.recorder.record(HARNESS, Outcome::Ok, Operation::Deleted { object });
        }
    }
}

fn fate(fault: StoreFault, method: &Method, random: &mut Random) -> Fate {
    let reads = *method == Method::GET;
    match fault {
        StoreFault::InternalError => Fate::Refused { status: 500, code: "InternalError" },
        StoreFault::SlowDown => Fate::Refused { status: 503, code: "SlowDown" },
        StoreFault::ExpiredCredentials => Fate::Refused { status: 400, code: "ExpiredToken" },
        StoreFault::ErrorInOk => Fate::ErrorInOk,
        StoreFault::Timeout => Fate::Silent,
        StoreFault::LostAnswer if random.below(2) == 0 => Fate::DoneThenCut,
        StoreFault::LostAnswer => Fate::DoneThenSilent,
        StoreFault::Truncated if reads => Fate::Truncated,
        StoreFault::BitFlip if reads => Fate::BitFlipped,
        // Their answers have no body.
        StoreFault::Truncated | StoreFault::BitFlip => Fate::Pass,
        StoreFault::SlowTail => Fate::Late(Duration::from_millis(random.within(100..3_000))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Storage;
    use super::super::tests::of_one_that_ends_at_once;
    use super::*;
    use bytes::Bytes;

    /// Less than the store lets a request take.
    const AT_ONCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_request_that_is_not_answered_is_over_once_the_store_is_healed() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = of_one_that_ends_at_once(folder.path(), Storage::S3).await;
        cluster.bucket.fail(&[Node::Client], StoreFault::Timeout, 100);
        let heals = async {
            while cluster.bucket.faults.lock().struck == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(cluster.heal_store() > 0);
        };
        let create = || cluster.access.store.create("object", Bytes::from_static(b"bytes"));
        let both = async { tokio::join!(create(), heals) };
        let (reset, ()) = tokio::time::timeout(AT_ONCE, both).await.unwrap();
        assert!(reset.unwrap_err().may_have_happened());
        create().await.unwrap();
    }
}
