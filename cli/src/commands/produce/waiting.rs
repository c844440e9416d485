//! What records wait for, told on stderr while nothing is acknowledged.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use streamhouse_client::{Admin, AdminError, AgentStatus, CallError, Producer, TopicDescription};

use super::{Args, Progress};
use crate::{clock, exit};

/// So long may a topic be looked up, or records be on their way, without a word about it.
const SILENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions to the controllers, the longer the more were asked.
const PAUSES: RangeInclusive<Duration> = SILENCE..=Duration::from_secs(30);
/// How long the controllers are asked.
const PATIENCE: Duration = Duration::from_secs(2);
const TRY: Duration = Duration::from_secs(1);
/// A topic's setting, and what holds without it.
const AGENT_GROUP: &str = "agent.group";
const DEFAULT_AGENT_GROUP: &str = "default";

/// Watches over a producer.
pub(super) struct Waiting<'a> {
    producer: &'a Producer,
    args: &'a Args,
    progress: &'a Progress,
    admin: Admin,
    /// Records, when last looked.
    acknowledged: Cell<u64>,
    /// Why none was acknowledged since, if that is known.
    cause: RefCell<Option<String>>,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(
        producer: &'a Producer,
        args: &'a Args,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let admin = Admin::builder()
            .controllers(args.controllers.resolve()?)
            .operation_timeout(PATIENCE)
            .connect_timeout(TRY)
            .try_timeout(TRY)
            .build()?;
        let (acknowledged, cause) = (Cell::default(), RefCell::default());
        Ok(Self { producer, args, progress, admin, acknowledged, cause })
    }

    /// Looks up the topic, which is waited for all the time.
    pub(super) async fn during_look_up<T>(&self, work: impl Future<Output = T>) -> T {
        self.beside(work, || true).await
    }

    /// Sends records, which are waited for while some are on their way.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        self.beside(work, || self.producer.metrics().queue_bytes > 0).await
    }

    async fn beside<T>(&self, work: impl Future<Output = T>, waits: impl Fn() -> bool) -> T {
        tokio::select! {
            biased;
            done = work => done,
            () = self.watch(waits) => unreachable!("it watches for as long as the work takes"),
        }
    }

    /// The error, with why nothing was acknowledged in the end.
    pub(super) fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        // What was waited for before what comes next has nothing to do with that.
        let cause = self.cause.take();
        match (result, cause) {
            (Err(error), Some(cause)) => {
                let said = format!("{}; {cause}", exit::chain(&error));
                Err(error.context(said))
            }
            (result, _) => result,
        }
    }

    /// Says why nothing is acknowledged: once, and again when it is for another reason.
    async fn watch(&self, waits: impl Fn() -> bool) {
        let (mut since, mut pause) = (clock::now(), *PAUSES.start());
        let mut asked = None;
        loop {
            let acknowledged = self.producer.metrics().records;
            if self.acknowledged.replace(acknowledged) != acknowledged {
                (since, pause) = (clock::now(), *PAUSES.start());
                self.cause.take();
            } else if !waits() {
                since = clock::now();
            } else if since.elapsed() >= SILENCE
                && asked.is_none_or(|asked: Instant| asked.elapsed() >= pause)
            {
                let cause = self.look().await;
                (asked, pause) = (Some(clock::now()), (2 * pause).min(*PAUSES.end()));
                if let Some(text) = &cause
                    && *self.cause.borrow() != cause
                {
                    self.progress.say(&format!("{text}: waiting"));
                }
                self.cause.replace(cause);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Why nothing is acknowledged. Nothing if agents hold the leases: they may be slow.
    async fn look(&self) -> Option<String> {
        let topic = match self.admin.describe_topic(&self.args.topic).await {
            Ok(topic) => topic,
            Err(error) => return of_controllers(&error),
        };
        match self.admin.agents().await {
            Ok(agents) => of_agents(&topic, self.args.partition, &agents),
            Err(error) => of_controllers(&error),
        }
    }
}

fn of_controllers(error: &AdminError) -> Option<String> {
    match error {
        AdminError::Call(CallError::Unreachable { tried, .. }) => {
            Some(format!("no controller answers at {}", tried.join(", ")))
        }
        AdminError::Call(CallError::TimedOut { last, .. }) => {
            Some(format!("the controllers decide nothing ({last})"))
        }
        // Whoever waits is told by the producer.
        _ => None,
    }
}

/// `asked`: the only partition that is sent to.
fn of_agents(
    topic: &TopicDescription,
    asked: Option<u32>,
    agents: &[AgentStatus],
) -> Option<String> {
    let of_interest = topic.partitions.iter().filter(|p| asked.is_none_or(|n| n == p.partition));
    let mut unheld = of_interest.filter(|p| p.address.is_none());
    let (first, more) = (unheld.next()?.partition, unheld.count());
    let others = if more > 0 { format!(" and {more} more partitions") } else { String::new() };
    let group = topic.topic.config.get(AGENT_GROUP).map_or(DEFAULT_AGENT_GROUP, String::as_str);
    let alive = agents.iter().filter(|agent| agent.group == group && !agent.draining).count();
    let why = match alive {
        0 => format!("no agents of group {group} are alive"),
        1 => format!("the agent of group {group} has not taken it yet"),
        _ => format!("the {alive} agents of group {group} have not taken it yet"),
    };
    Some(format!("no agent holds {}/{first}{others}: {why}", topic.topic.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamhouse_client::{PartitionDescription, Topic, TopicId};
    use streamhouse_segment::ids::SessionId;

    fn partition(partition: u32, address: Option<&str>) -> PartitionDescription {
        PartitionDescription {
            partition,
            holder: address.map(|_| SessionId(7)),
            address: address.map(str::to_owned),
            lease_epoch: 1,
            log_start: 0,
            high_watermark: 0,
            segments: 0,
            bytes: 0,
            last_minute_records: 0,
            last_minute_bytes: 0,
        }
    }

    fn agent(group: &str) -> AgentStatus {
        AgentStatus {
            session: SessionId(7),
            address: "a:1".to_owned(),
            pid: 1,
            group: group.to_owned(),
            zone: String::new(),
            draining: false,
            leases: 1,
        }
    }

    #[test]
    fn the_partitions_that_nobody_holds_are_told_with_who_could() {
        let topic = |partitions, config: &[(&str, &str)]| TopicDescription {
            topic: Topic {
                id: TopicId::from_bytes([1; 16]),
                name: "t".to_owned(),
                partitions: 3,
                config: config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            },
            partitions,
            applied: 1,
        };
        let one_held = || vec![partition(0, Some("a:1")), partition(1, None), partition(2, None)];
        let fast = topic(one_held(), &[("agent.group", "fast")]);
        let said = |asked, agents: &[AgentStatus]| of_agents(&fast, asked, agents);
        let text = "no agent holds t/1 and 1 more partitions: no agents of group fast are alive";
        assert_eq!(said(None, &[agent("default")]).as_deref(), Some(text));
        let text = "no agent holds t/2: the agent of group fast has not taken it yet";
        assert_eq!(said(Some(2), &[agent("fast")]).as_deref(), Some(text));
        assert_eq!(said(Some(0), &[]), None, "that one is held");
        let plain = topic(one_held(), &[]);
        let text = "no agent holds t/1: no agents of group default are alive";
        assert_eq!(of_agents(&plain, Some(1), &[agent("fast")]).as_deref(), Some(text));
    }

    #[test]
    fn controllers_that_do_not_answer_are_told() {
        let tried = vec!["c:1".to_owned(), "c:2".to_owned()];
        let error = CallError::Unreachable { tried, last: "refused".to_owned() };
        let said = of_controllers(&AdminError::Call(error));
        assert_eq!(said.as_deref(), Some("no controller answers at c:1, c:2"));
    }
}
