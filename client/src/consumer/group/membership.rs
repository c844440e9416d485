//! The task that keeps one consumer a member of its group.

mod grants;
mod upkeep;
mod wishes;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use streamhouse_segment::ids::TopicId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::attend::Said;
use super::core::Core;
use super::lease::{Lease, MemberId};
use super::options::GroupOptions;
use super::{Event, Word};
use crate::clock;
use crate::consumer::error::ConsumeError;
use crate::consumer::subscription::Subscription;
use crate::retry::Backoff;
use crate::routing::{Metadata, Requester};

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
    /// Outlives the streams: what is over stays so when they are opened anew.
    progress: grants::Progress,
    epoch: u32,
    settled: bool,
    /// What the leader said was not taken in, or was taken back: it must say it again.
    stale: bool,
    /// Since when what came of a release was not told.
    in_doubt: Option<Instant>,
    topics: BTreeSet<TopicId>,
    /// They may have heard a later wish, whose answer was lost: the next is said whatever it is.
    unsure: bool,
    /// Releases under way. They go on until they are answered, whatever the member loses meanwhile.
    releases: JoinSet<grants::Released>,
    /// A look for topics under way.
    looking: JoinSet<wishes::Found>,
    /// What was found and not said yet; and what is being said.
    wanted: Option<BTreeSet<TopicId>>,
    saying: JoinSet<wishes::Said>,
}

/// The streams of one membership.
struct Streams {
    tasks: JoinSet<()>,
    addresses: BTreeSet<Arc<str>>,
    said: mpsc::Receiver<Said>,
    say: mpsc::Sender<Said>,
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
            progress: grants::Progress::default(),
            epoch: 0,
            settled: false,
            stale: false,
            in_doubt: None,
            topics: BTreeSet::new(),
            unsure: false,
            releases: JoinSet::new(),
            looking: JoinSet::new(),
            wanted: None,
            saying: JoinSet::new(),
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
                    self.fail(error);
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
                    Some(Word::GivenUp(keys)) => {
                        self.core.given_up(&keys);
                    }
                    Some(Word::Lost) => {}
                },
                () = tell(&self.events, &mut self.outgoing) => {}
            }
        }
    }

    /// One membership, from joining to its end.
    async fn live(&mut self, backoff: &mut Backoff) -> Over {
        // What the membership before wanted to say, and what its calls were told, is of no interest.
        (self.wanted, self.saying, self.releases) = (None, JoinSet::new(), JoinSet::new());
        self.unsure = false;
        self.core.begin();
        let asked = clock::now();
        match self.join().await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                tracing::warn!(group = %self.group, %error, "joining the group failed");
                self.fail(error);
                let wait = backoff.next();
                // Told before it is tried again.
                let told = tokio::time::timeout(wait, self.until_closed()).await;
                return if told.is_ok() { Over::Closed } else { Over::Fenced };
            }
        }
        self.lease.begin(self.member, asked + self.options.session_timeout);
        (self.settled, self.stale, self.in_doubt) = (false, false, None);
        // With that poll loses all that it had: what was still to be told is of the past.
        for event in self.outgoing.drain(..) {
            let Event::Revoked(keys) = event else { continue };
            for key in &keys {
                self.core.unasked(key);
            }
        }
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
                Some(released) = self.releases.join_next() => self.released(released).await,
                Some(found) = self.looking.join_next() => {
                    self.found(found);
                    None
                }
                Some(said) = self.saying.join_next() => self.said(said),
                _ = look.tick() => self.look(&mut streams, &mut refreshed).await,
            };
            if let Some(over) = over {
                return over;
            }
        }
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

    /// Tells the application. BOUND: of failures that it has not heard of yet, the last one.
    fn fail(&mut self, error: ConsumeError) {
        self.outgoing.retain(|event| !matches!(event, Event::Failed(_)));
        self.outgoing.push_back(Event::Failed(error));
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
