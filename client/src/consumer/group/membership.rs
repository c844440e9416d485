//! The task that keeps one consumer a member of its group.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streamhouse_proto::v1;
use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::attend::{Attendance, Said};
use super::core::{Core, Grant, Key, Steps};
use super::lease::{Lease, MemberId};
use super::options::GroupOptions;
use super::{Event, Word};
use crate::clock;
use crate::consumer::discovery;
use crate::consumer::error::ConsumeError;
use crate::consumer::subscription::Subscription;
use crate::convert;
use crate::errors::{CallError, Code};
use crate::retry::Backoff;
use crate::routing::{Client, Metadata, Requester};

/// How often leases and poll are looked after.
const LOOK: Duration = Duration::from_millis(50);
/// BOUND: what controllers said and was not yet taken in.
const SAID: usize = 16;

/// Why a membership ended.
enum Over {
    /// The consumer closes, or is gone.
    Closed,
    /// The controllers, or the clock, ended it: another one begins.
    Fenced,
    /// The application did not poll for too long: another one begins when it does.
    Idle,
    /// The same instance has joined elsewhere: there is no other.
    Replaced,
}

/// See the module.
pub(super) struct Membership {
    group: Arc<str>,
    options: GroupOptions,
    metadata: Metadata,
    refresh: Duration,
    subscription: Subscription,
    requester: Requester,
    lease: Arc<Lease>,
    events: mpsc::Sender<Event>,
    words: mpsc::Receiver<Word>,
    /// BOUND: one per partition and stage, as the core has no more to say.
    outgoing: VecDeque<Event>,
    core: Core,
    member: MemberId,
    epoch: u32,
    settled: bool,
    /// What the leader said was not taken in, or was taken back: it must say it again.
    stale: bool,
    topics: BTreeSet<TopicId>,
    /// Releases under way; true: the member is fenced.
    releases: JoinSet<bool>,
    /// A look for topics under way.
    looking: JoinSet<Result<BTreeSet<TopicId>, CallError>>,
}

/// The streams of one membership.
struct Streams {
    tasks: JoinSet<()>,
    addresses: BTreeSet<Arc<str>>,
    said: mpsc::Receiver<Said>,
    say: mpsc::Sender<Said>,
    /// The highest term of which a leader was heard.
    term: u64,
}

impl Membership {
    pub(super) fn new(
        (group, options): (Arc<str>, GroupOptions),
        (metadata, refresh): (Metadata, Duration),
        subscription: Subscription,
        lease: Arc<Lease>,
        (events, words): (mpsc::Sender<Event>, mpsc::Receiver<Word>),
    ) -> Self {
        Self {
            group,
            options,
            metadata,
            refresh,
            subscription,
            requester: Requester::new(),
            lease,
            events,
            words,
            outgoing: VecDeque::new(),
            core: Core::default(),
            member: [0; 16],
            epoch: 0,
            settled: false,
            stale: false,
            topics: BTreeSet::new(),
            releases: JoinSet::new(),
            looking: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let over = tokio::select! {
                () = cancel.cancelled() => return,
                over = self.live(&mut backoff) => over,
            };
            self.lose_all();
            self.lease.end();
            match over {
                Over::Closed => return,
                Over::Fenced => {}
                Over::Idle => {
                    let lease = self.lease.clone();
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = lease.polled() => {}
                        closed = self.until_closed() => return closed,
                    }
                }
                Over::Replaced => {
                    let instance = self.options.instance_id.clone().unwrap_or_default();
                    let (group, error) = (
                        self.group.clone(),
                        ConsumeError::ReplacedMember { group: self.group.clone(), instance },
                    );
                    tracing::warn!(%group, %error, "the member was replaced");
                    self.outgoing.push_back(Event::Failed(error));
                    return self.until_closed().await;
                }
            }
        }
    }

    /// Hands out what is still to be told, until the consumer closes.
    async fn until_closed(&mut self) {
        loop {
            tokio::select! {
                word = self.words.recv() => match word {
                    None => return,
                    Some(Word::Leave(done)) => {
                        let _ = done.send(());
                        return;
                    }
                    Some(Word::Subscribed(subscription)) => self.subscription = subscription,
                    Some(Word::GivenUp(_) | Word::Lost) => {}
                },
                () = tell(&self.events, &mut self.outgoing) => {}
            }
        }
    }

    /// One membership, from joining to its end.
    async fn live(&mut self, backoff: &mut Backoff) -> Over {
        let asked = clock::now();
        match self.join().await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!(group = %self.group, %error, "joining the group failed");
                self.outgoing.push_back(Event::Failed(error));
                let wait = backoff.next();
                // Told before it is tried again.
                let told = tokio::time::timeout(wait, self.until_closed()).await;
                return if told.is_ok() { Over::Closed } else { Over::Fenced };
            }
        }
        self.lease.begin(self.member, asked + self.options.session_timeout);
        (self.settled, self.stale) = (false, false);
        self.outgoing.push_back(Event::Began(self.member, self.epoch));
        let mut streams = self.attend();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refreshed = clock::now();
        loop {
            let over = tokio::select! {
                () = tell(&self.events, &mut self.outgoing) => None,
                Some(said) = streams.said.recv() => self.heard(said, &mut streams),
                word = self.words.recv() => match word {
                    Some(Word::Leave(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        Some(Over::Closed)
                    }
                    None => Some(Over::Closed),
                    Some(word) => {
                        self.follow(word);
                        None
                    }
                },
                Some(fenced) = self.releases.join_next() => {
                    matches!(fenced, Ok(true)).then_some(Over::Fenced)
                }
                Some(found) = self.looking.join_next() => self.found(found).await,
                _ = look.tick() => self.look(&mut streams, &mut refreshed).await,
            };
            if let Some(over) = over {
                return over;
            }
        }
    }

    async fn join(&mut self) -> Result<(), ConsumeError> {
        self.topics = find(&self.metadata, &self.subscription, true).await?;
        self.member = clock::random_id();
        self.epoch = self.say_wish(&self.topics).await?;
        Ok(())
    }

    /// Tells the controllers what the member wants; returns its epoch.
    async fn say_wish(&self, topics: &BTreeSet<TopicId>) -> Result<u32, CallError> {
        let request = v1::JoinGroupRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
            instance_id: self.instance(),
            client_id: self.options.client_id.to_string(),
            topic_ids: topics.iter().map(|id| id.to_bytes().to_vec()).collect(),
            assignor: self.options.assignor.wire().into(),
            session_timeout_ms: self.options.session_timeout_ms(),
        };
        let pool = &self.metadata.pool;
        let answer = pool.call("join group", |mut client: Client| {
            let request = request.clone();
            async move { client.join_group(request).await }
        });
        let answer = answer.await?;
        pool.observe(answer.applied);
        Ok(answer.member_epoch)
    }

    fn instance(&self) -> String {
        self.options.instance_id.as_deref().unwrap_or_default().to_owned()
    }

    fn attend(&self) -> Streams {
        let (say, said) = mpsc::channel(SAID);
        let (tasks, addresses) = (JoinSet::new(), BTreeSet::new());
        let mut streams = Streams { tasks, addresses, said, say, term: 0 };
        self.attend_at(&mut streams, self.metadata.pool.addresses());
        streams
    }

    fn attend_at(&self, streams: &mut Streams, addresses: impl IntoIterator<Item = Arc<str>>) {
        for address in addresses {
            if !streams.addresses.insert(address.clone()) {
                continue;
            }
            let attendance = Attendance {
                pool: self.metadata.pool.clone(),
                address,
                sign: v1::AttendGroupRequest {
                    group: self.group.to_string(),
                    member_id: self.member.to_vec(),
                    number: 0,
                    session_timeout_ms: self.options.session_timeout_ms(),
                    instance_id: self.instance(),
                },
                interval: self.options.heartbeat(),
                said: streams.say.clone(),
            };
            streams.tasks.spawn(attendance.run());
        }
    }

    fn heard(&mut self, said: Said, streams: &mut Streams) -> Option<Over> {
        let answer = said.answer;
        self.metadata.pool.learn(answer.controllers.iter().map(|address| &**address));
        // One may have taken another's place.
        self.attend_at(streams, self.metadata.pool.addresses());
        // A deposed leader may not know it yet.
        if !answer.leader || answer.term < streams.term {
            return None;
        }
        streams.term = answer.term;
        if answer.fenced {
            return Some(if answer.replaced { Over::Replaced } else { Over::Fenced });
        }
        if let Some(sent) = said.confirmed {
            self.lease.extend(sent + self.options.session_timeout);
        }
        if answer.assignment && clock::now() >= self.lease.until() {
            // GROUP: said by one who has not confirmed for too long that the member lives.
            self.stale = true;
        } else if answer.assignment {
            self.metadata.pool.observe(answer.applied);
            self.epoch = answer.group_epoch;
            let granted = answer.partitions.into_iter().filter_map(granted).collect();
            let steps = self.core.told(granted);
            self.take(steps);
        }
        if !answer.assigning && !self.settled {
            self.settled = true;
            self.outgoing.push_back(Event::Settled);
        }
        None
    }

    /// Does what follows.
    fn take(&mut self, steps: Steps) {
        let Steps { lost, revoked, assigned, release } = steps;
        if !lost.is_empty() {
            self.outgoing.push_back(Event::Lost(lost));
        }
        if !revoked.is_empty() {
            self.outgoing.push_back(Event::Revoked(revoked));
        }
        if !assigned.is_empty() {
            self.outgoing.push_back(Event::Assigned(assigned, self.epoch));
        }
        if !release.is_empty() {
            self.release(&release);
        }
    }

    fn lose_all(&mut self) {
        self.releases.abort_all();
        let steps = self.core.forget();
        self.take(steps);
    }

    fn follow(&mut self, word: Word) {
        match word {
            Word::GivenUp(keys) => {
                let steps = self.core.given_up(&keys);
                self.take(steps);
            }
            Word::Subscribed(subscription) => {
                self.subscription = subscription;
                self.looking.abort_all();
                self.find();
            }
            Word::Lost => {
                self.lose_all();
                self.stale = true;
            }
            Word::Leave(_) => {}
        }
    }

    fn release(&mut self, released: &[(Key, u32)]) {
        let owned = released.iter().map(|((topic, partition), epoch)| v1::OwnedPartition {
            partition: Some(convert::topic_partition(*topic, *partition)),
            granted_epoch: *epoch,
            revoking: true,
        });
        let request = v1::ReleasePartitionsRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
            partitions: owned.collect(),
        };
        let pool = self.metadata.pool.clone();
        self.releases.spawn(async move {
            loop {
                let released = pool.call("release partitions", |mut client: Client| {
                    let request = request.clone();
                    async move { client.release_partitions(request).await }
                });
                match released.await {
                    Ok(_) => return false,
                    Err(error) if error.retryable() => {
                        tracing::debug!(%error, "partitions are not released yet");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "releasing partitions failed");
                        return error.code() == Some(Code::FencedMember);
                    }
                }
            }
        });
    }

    /// Looks at the clock: leases, polls, and the next look for topics.
    async fn look(&mut self, streams: &mut Streams, refreshed: &mut Instant) -> Option<Over> {
        let now = clock::now();
        let idle = self.lease.idle_since();
        if idle.is_some_and(|since| now.duration_since(since) > self.options.max_poll_interval) {
            tracing::warn!(
                group = %self.group,
                max_poll_interval = ?self.options.max_poll_interval,
                "the application does not poll; leaving the group until it does"
            );
            self.lose_all();
            self.lease.end();
            self.leave().await;
            return Some(Over::Idle);
        }
        if now >= self.lease.until() && !self.core.is_empty() {
            tracing::warn!(group = %self.group, "no leader confirmed the member for its session timeout");
            self.lose_all();
            self.stale = true;
        }
        if self.stale && now < self.lease.until() {
            self.stale = false;
            *streams = self.attend();
        }
        if now.duration_since(*refreshed) >= self.refresh {
            *refreshed = now;
            self.find();
        }
        None
    }

    fn find(&mut self) {
        if self.looking.is_empty() {
            let (metadata, subscription) = (self.metadata.clone(), self.subscription.clone());
            self.looking.spawn(async move { find(&metadata, &subscription, true).await });
        }
    }

    async fn found(
        &mut self,
        found: Result<Result<BTreeSet<TopicId>, CallError>, tokio::task::JoinError>,
    ) -> Option<Over> {
        let topics = match found {
            Ok(Ok(topics)) => topics,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look for topics");
                return None;
            }
            // A later subscription took its place.
            Err(_) => {
                self.find();
                return None;
            }
        };
        if topics == self.topics {
            return None;
        }
        match self.say_wish(&topics).await {
            // Only what the controllers know need not be said again.
            Ok(_) => self.topics = topics,
            Err(error) if error.code() == Some(Code::FencedMember) => return Some(Over::Fenced),
            Err(error) => self.outgoing.push_back(Event::Failed(error.into())),
        }
        None
    }

    /// A static member only stops: its instance may come again.
    async fn leave(&mut self) {
        if self.options.instance_id.is_some() {
            return;
        }
        let request = v1::LeaveGroupRequest {
            request: Some(self.requester.next()),
            group: self.group.to_string(),
            member_id: self.member.to_vec(),
        };
        let left = self.metadata.pool.call("leave group", |mut client: Client| {
            let request = request.clone();
            async move { client.leave_group(request).await }
        });
        if let Err(error) = left.await {
            tracing::warn!(group = %self.group, %error, "leaving the group failed; its session ends by itself");
        }
    }
}

/// Hands the next change on, once poll has room for it.
async fn tell(events: &mpsc::Sender<Event>, outgoing: &mut VecDeque<Event>) {
    if outgoing.is_empty() {
        return std::future::pending().await;
    }
    match events.reserve().await {
        Ok(room) => {
            if let Some(event) = outgoing.pop_front() {
                room.send(event);
            }
        }
        // Nobody listens any more; the words tell.
        Err(_) => std::future::pending().await,
    }
}

fn granted(wire: v1::OwnedPartition) -> Option<(Key, Grant)> {
    let partition = wire.partition?;
    let topic = convert::topic_id(&partition.topic_id).ok()?;
    let grant = Grant { epoch: wire.granted_epoch, revoking: wire.revoking };
    Some(((topic, partition.partition), grant))
}

/// The topics that the subscription wants as the cluster is now.
async fn find(
    metadata: &Metadata,
    subscription: &Subscription,
    linearizable: bool,
) -> Result<BTreeSet<TopicId>, CallError> {
    let topics = discovery::topics(metadata, linearizable).await?;
    let by_name: BTreeMap<_, _> = topics.into_iter().map(|topic| (topic.name, topic.id)).collect();
    Ok(by_name.iter().filter(|(name, _)| subscription.wants(name)).map(|(_, id)| *id).collect())
}
