//! The way to the controllers: a channel to each, which of them probably leads, and calls that go on until somebody
//! has answered.

use crate::backoff::Backoff;
use crate::clock;
use crate::options::StartError;
use parking_lot::RwLock;
use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use streamhouse_host::net;
use streamhouse_proto::v1::collector_client::CollectorClient;
use streamhouse_proto::v1::producers_client::ProducersClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use streamhouse_proto::{MAX_MESSAGE_BYTES, from_status};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// A client of one controller: of its sessions, and of its producers.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    sessions: SessionsClient<Channel>,
    pub(crate) producers: ProducersClient<Channel>,
}

impl Deref for Client {
    type Target = SessionsClient<Channel>;

    fn deref(&self) -> &Self::Target {
        &self.sessions
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.sessions
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// One attempt of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// A call that is not answered for so long is spoken of; and then every so long.
const WAITING: Duration = Duration::from_secs(1);
const STILL_WAITING: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Member {
    address: String,
    channel: Channel,
    /// Named when the agent was started: it stays. What is advertised need not be reachable from here.
    given: bool,
    /// The cluster has removed it.
    gone: AtomicBool,
}

impl Member {
    /// The channel is opened when it is first used.
    fn new(address: &str, given: bool) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let channel = net::connect_lazy(&endpoint);
        Ok(Self { address: address.to_owned(), channel, given, gone: AtomicBool::new(false) })
    }
}

/// Handles to all controllers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Controllers {
    /// Only ever added to, so that an index means the same controller for good.
    members: Arc<RwLock<Vec<Arc<Member>>>>,
    count: Arc<watch::Sender<usize>>,
    /// Which one probably leads.
    preferred: Arc<watch::Sender<usize>>,
    /// The newest term in which somebody was said to lead.
    term: Arc<AtomicU64>,
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.read();
        f.debug_list().entries(members.iter().map(|member| &member.address)).finish()
    }
}

/// Why a call was not answered with a result.
#[derive(Debug)]
pub(crate) struct CallFailed {
    pub(crate) error: ErrorInfo,
    /// An attempt before the last may have taken effect.
    pub(crate) doubtful: bool,
}

impl Controllers {
    /// Channels are opened when they are first used.
    pub(crate) fn new(addresses: &[String]) -> Result<Self, StartError> {
        let mut members = Vec::with_capacity(addresses.len());
        for address in addresses {
            let bad = |error| StartError::Controller { address: address.clone(), error };
            members.push(Arc::new(Member::new(address, true).map_err(bad)?));
        }
        if members.is_empty() {
            return Err(StartError::NoControllers);
        }
        Ok(Self {
            count: Arc::new(watch::Sender::new(members.len())),
            members: Arc::new(RwLock::new(members)),
            preferred: Arc::new(watch::Sender::new(0)),
            term: Arc::new(AtomicU64::new(0)),
        })
    }

    /// How many are known, as more become known.
    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    pub(crate) fn client(&self, member: usize) -> Client {
        let channel = self.channel(member);
        let producers = ProducersClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let sessions = SessionsClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Client { sessions, producers }
    }

    fn channel(&self, member: usize) -> Channel {
        self.members.read()[member].channel.clone()
    }

    pub(crate) fn address(&self, member: usize) -> String {
        self.members.read()[member].address.clone()
    }

    /// The cluster has removed it, and nobody here named it.
    pub(crate) fn is_gone(&self, member: usize) -> bool {
        self.members.read()[member].gone.load(Ordering::Relaxed)
    }

    /// These are the controllers now, says the one that leads.
    pub(crate) fn learn(&self, addresses: &[String]) {
        if addresses.is_empty() {
            return;
        }
        for member in self.members.read().iter().filter(|member| !member.given) {
            member.gone.store(!addresses.contains(&member.address), Ordering::Relaxed);
        }
        for address in addresses {
            self.learn_of(address);
        }
    }

    fn learn_of(&self, address: &str) {
        let known = |members: &[Arc<Member>]| members.iter().any(|known| known.address == address);
        if known(&self.members.read()) {
            return;
        }
        let member = match Member::new(address, false) {
            Ok(member) => Arc::new(member),
            Err(error) => {
                tracing::warn!(address, %error, "a controller's address is not usable");
                return;
            }
        };
        let mut members = self.members.write();
        if !known(&members) {
            tracing::info!(address, "another controller");
            members.push(member);
            self.count.send_replace(members.len());
        }
    }

    /// This controller says that it leads in `term`.
    pub(crate) fn leads(&self, member: usize, term: u64) {
        if self.term.fetch_max(term, Ordering::AcqRel) <= term {
            self.prefer(member);
        }
    }

    /// A controller heard that the one at this address leads in `term`.
    pub(crate) fn heard_of(&self, address: &str, term: u64) {
        // In a term of which we know the leader hearsay is no news.
        if self.term.load(Ordering::Acquire) < term {
            self.learn_of(address);
            if let Some(member) = self.find(address) {
                self.prefer(member);
            }
        }
    }

    fn prefer(&self, member: usize) {
        self.preferred.send_if_modified(|now| std::mem::replace(now, member) != member);
    }

    fn find(&self, address: &str) -> Option<usize> {
        self.members.read().iter().position(|member| member.address == address)
    }

    fn pass_over(&self, member: usize) {
        let members = self.members.read();
        let after = (1..=members.len()).map(|step| (member + step) % members.len());
        let next = after.into_iter().find(|next| !members[*next].gone.load(Ordering::Relaxed));
        let next = next.unwrap_or(member);
        self.preferred
            .send_if_modified(|now| *now == member && std::mem::replace(now, next) != next);
    }

    /// Makes a call until it is answered: by a result, or by an error that no retry can help. RETRY: every call that
    /// goes this way is one that may be repeated.
    ///
    /// An attempt is broken off when another controller turns out to lead.
    pub(crate) async fn call<T, F, Fut>(&self, name: &'static str, call: F) -> Result<T, CallFailed>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_member(name, |member| call(self.client(member))).await
    }

    /// The same for the collector's service.
    pub(crate) async fn call_collector<T, F, Fut>(
        &self,
        name: &'static str,
        call: F,
    ) -> Result<T, CallFailed>
    where
        F: Fn(CollectorClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_member(name, |member| call(CollectorClient::new(self.channel(member)))).await
    }

    async fn call_member<T, F, Fut>(&self, name: &'static str, call: F) -> Result<T, CallFailed>
    where
        F: Fn(usize) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut leader = self.preferred.subscribe();
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut doubtful = false;
        // Each controller is gone to once because another one names it; from then on it is its turn when it is its
        // turn, for it may be out of reach, or named by one that knows no better.
        let mut named = HashSet::new();
        let (mut waiting_since, mut said) = (clock::now(), false);
        loop {
            let member = *leader.borrow_and_update();
            let attempt = tokio::time::timeout(CALL_TIMEOUT, call(member));
            let error = tokio::select! {
                answer = attempt => match answer {
                    Ok(Ok(response)) => return Ok(response.into_inner()),
                    Ok(Err(status)) => from_status(&status),
                    Err(_) => ErrorInfo::new(ErrorCode::TimedOut, "no answer in time"),
                },
                _ = leader.changed() => {
                    doubtful = true;
                    continue;
                }
            };
            if is_final(error.code()) {
                return Err(CallFailed { error, doubtful });
            }
            doubtful |= streamhouse_proto::advice(error.code()).indeterminate;
            let controller = self.address(member);
            tracing::debug!(call = name, controller, error = ?error, "call failed, trying again");
            // What takes long is said, and said again while it lasts.
            let patience = if said { STILL_WAITING } else { WAITING };
            if clock::now().saturating_duration_since(waiting_since) >= patience {
                tracing::warn!(
                    call = name,
                    controller,
                    reason = error.message,
                    "waiting for the controllers"
                );
                (waiting_since, said) = (clock::now(), true);
            }
            match self.find(&error.address).filter(|leader| named.insert(*leader)) {
                Some(leader) => self.prefer(leader),
                None => self.pass_over(member),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

/// Whether a repetition cannot bring another answer.
fn is_final(code: ErrorCode) -> bool {
    match code {
        ErrorCode::InvalidArgument
        | ErrorCode::UnknownTopic
        | ErrorCode::UnknownPartition
        | ErrorCode::TopicExists
        | ErrorCode::RecordTooLarge
        | ErrorCode::CorruptBatch
        | ErrorCode::OffsetOutOfRange
        | ErrorCode::StoreMismatch
        | ErrorCode::UnknownController
        | ErrorCode::Conflict
        | ErrorCode::NotLeaseHolder
        | ErrorCode::SessionEnded
        | ErrorCode::OutcomeUnknown
        | ErrorCode::WrongCluster
        | ErrorCode::ProducerFenced
        | ErrorCode::UnknownProducer
        | ErrorCode::FencedMember
        | ErrorCode::StaleMember
        | ErrorCode::GroupNotEmpty
        | ErrorCode::UnknownGroup => true,
        ErrorCode::Unspecified
        | ErrorCode::TopicNotReady
        | ErrorCode::StaleCommit
        | ErrorCode::NoLeader
        | ErrorCode::Overloaded
        | ErrorCode::ShuttingDown
        | ErrorCode::Behind
        | ErrorCode::StoreUnavailable
        | ErrorCode::Restoring
        | ErrorCode::Upgrading
        | ErrorCode::GroupBusy
        | ErrorCode::TooManyProducers
        | ErrorCode::TimedOut
        | ErrorCode::ConnectionLost
        | ErrorCode::Internal
        | ErrorCode::OutOfOrderSequence => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use streamhouse_proto::to_status;

    #[tokio::test]
    async fn one_that_is_named_and_does_not_answer_keeps_nobody_from_being_asked() {
        let address = |n: usize| format!("127.0.0.1:{n}");
        let controllers = Controllers::new(&[address(1), address(2), address(3)]).unwrap();
        let asked = Mutex::new(Vec::new());
        let answer = async |member| {
            asked.lock().push(member);
            match member {
                0 => {
                    let info = ErrorInfo::new(ErrorCode::NoLeader, "another controller leads");
                    Err(to_status(info.at(address(3))))
                }
                1 => Ok(Response::new(())),
                _ => Err(Status::unavailable("out of reach")),
            }
        };
        controllers.call_member("register", &answer).await.unwrap();
        assert_eq!(*asked.lock(), [0, 2, 0, 1]);
    }
}
