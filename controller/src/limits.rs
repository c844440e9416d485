//! BOUND: how much of everything a controller takes.
//!
//! What decides inside `apply` must be the same on every controller (PURE), so
//! the state machine knows constants only: the highest that each of these may
//! be set to. What an operator sets lower is asked by the leader, before it
//! proposes ([`Gate`]).

use crate::raft::MAX_COMMAND_BYTES;
use crate::state::MAX_BATCH;
use crate::state::command::{CommandBody, GroupJoin, ObjectContents, PartitionKey, RequestKey};
use crate::state::groups::{MAX_GROUP_PARTITIONS, MAX_GROUPS, MAX_MEMBERS};
use crate::state::kv::{KvError, KvRead};
use crate::state::names::shown;
use crate::state::offsets::MAX_METADATA_BYTES;
use crate::state::topics::{MAX_ALL_PARTITIONS, MAX_PARTITIONS, MAX_TOPICS};
use crate::state::{groups, offsets, producers, requests, sessions, topics};
use parking_lot::Mutex;
use std::sync::Arc;
use streamhouse_proto::MAX_MESSAGE_BYTES;

/// How much a controller takes. See [`Limits::default`] for the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one entry of the log.
    pub entry_bytes: usize,
    /// Slices of an object, offsets of a commit, leases of a release.
    pub batch: usize,
    /// Topics.
    pub topics: usize,
    /// Partitions of one topic.
    pub topic_partitions: usize,
    /// Partitions of all topics.
    pub partitions: usize,
    /// Live sessions of agents.
    pub sessions: usize,
    /// Watch streams of one controller.
    pub watchers: usize,
    /// Connections to one controller, besides those of its peers.
    pub connections: usize,
    /// Calls that one controller is working at, besides those of its peers.
    pub calls: usize,
    /// Bytes of one message of an agent or a client.
    pub message_bytes: usize,
    /// Bytes of commands that are proposed at one controller and not applied.
    pub in_flight_bytes: usize,
    /// Idempotent producers that are remembered.
    pub producers: usize,
    /// Consumer groups.
    pub groups: usize,
    /// Members of one consumer group.
    pub group_members: usize,
    /// Partitions of the topics that a group's members subscribe to.
    pub group_partitions: usize,
    /// Streams of groups' members at one controller.
    pub member_streams: usize,
    /// Bytes of metadata that is committed with an offset.
    pub offset_metadata_bytes: usize,
}

impl Default for Limits {
    /// 4 MiB an entry, 4,096 in a batch, 10,000 topics of up to 10,000
    /// partitions, 100,000 partitions in all, 4,000 sessions, 1,000,000
    /// idempotent producers; per controller 10,000 watch streams, 4,000
    /// connections, 8,192 calls, 20 MiB a message, 64 MiB in flight; 10,000
    /// consumer groups of up to 2,000 members and 10,000 partitions, 10,000
    /// members' streams per controller, 4 KiB of metadata an offset.
    fn default() -> Self {
        Self {
            entry_bytes: MAX_COMMAND_BYTES,
            batch: MAX_BATCH,
            topics: MAX_TOPICS,
            topic_partitions: MAX_PARTITIONS as usize,
            partitions: 100_000,
            sessions: 4_000,
            watchers: 10_000,
            connections: 4_000,
            calls: 8_192,
            message_bytes: MAX_MESSAGE_BYTES,
            in_flight_bytes: 64 << 20,
            producers: 1_000_000,
            groups: 10_000,
            group_members: 2_000,
            group_partitions: MAX_GROUP_PARTITIONS,
            member_streams: 10_000,
            offset_metadata_bytes: MAX_METADATA_BYTES,
        }
    }
}

impl Limits {
    /// Flag, value and the highest value of each.
    fn all(&self) -> [(&'static str, usize, usize); 17] {
        const MANY: usize = 1_000_000;
        [
            ("--max-entry-bytes", self.entry_bytes, MAX_COMMAND_BYTES),
            ("--max-batch", self.batch, MAX_BATCH),
            ("--max-topics", self.topics, MAX_TOPICS),
            ("--max-topic-partitions", self.topic_partitions, MAX_PARTITIONS as usize),
            ("--max-partitions", self.partitions, MAX_ALL_PARTITIONS as usize),
            ("--max-sessions", self.sessions, MANY),
            ("--max-watchers", self.watchers, MANY),
            ("--max-connections", self.connections, MANY),
            ("--max-calls", self.calls, MANY),
            ("--max-message-bytes", self.message_bytes, MAX_MESSAGE_BYTES),
            ("--max-in-flight-bytes", self.in_flight_bytes, 1 << 30),
            ("--max-producers", self.producers, producers::MAX_PRODUCERS as usize),
            ("--max-groups", self.groups, MAX_GROUPS),
            ("--max-group-members", self.group_members, MAX_MEMBERS),
            ("--max-group-partitions", self.group_partitions, MAX_GROUP_PARTITIONS),
            ("--max-member-streams", self.member_streams, MANY),
            ("--max-offset-metadata-bytes", self.offset_metadata_bytes, MAX_METADATA_BYTES),
        ]
    }

    /// Says which limit cannot be kept, if one cannot.
    pub fn check(&self) -> Result<(), String> {
        for (flag, value, highest) in self.all() {
            if value == 0 || value > highest {
                return Err(format!("{flag} {value}: allowed are 1 to {highest}"));
            }
        }
        if self.in_flight_bytes < self.entry_bytes {
            return Err(format!(
                "--max-in-flight-bytes {}: must hold an entry of --max-entry-bytes, {}",
                self.in_flight_bytes, self.entry_bytes
            ));
        }
        Ok(())
    }
}

/// What is being proposed and does not show in the state yet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Coming {
    topics: u64,
    partitions: u64,
    sessions: u64,
    producers: u64,
    groups: u64,
    /// Of all groups.
    members: u64,
}

/// Asks, at the leader, whether a command keeps the limits.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    coming: Mutex<Coming>,
}

/// Why a command is not proposed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    /// It breaks a limit; says which.
    Limit(String),
    /// It might break one, if all that is being proposed is accepted.
    Busy(String),
}

/// Room that is kept for a command until it is applied.
#[derive(Debug)]
pub(crate) struct Room {
    gate: Arc<Gate>,
    taken: Coming,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut coming = self.gate.coming.lock();
        coming.topics -= self.taken.topics;
        coming.partitions -= self.taken.partitions;
        coming.sessions -= self.taken.sessions;
        coming.producers -= self.taken.producers;
        coming.groups -= self.taken.groups;
        coming.members -= self.taken.members;
    }
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, coming: Mutex::default() }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether [`Gate::admit`] has to be asked: only a leader whose state is
    /// current can answer.
    pub(crate) fn counts(body: &CommandBody) -> bool {
        matches!(
            body,
            CommandBody::CreateTopic { .. }
                | CommandBody::RegisterSession(_)
                | CommandBody::InitProducer(_)
                | CommandBody::JoinGroup(_)
                | CommandBody::CommitOffsets { .. }
        )
    }

    /// Refuses a batch that is too large, whatever the state.
    pub(crate) fn check_batch(&self, body: &CommandBody) -> Result<(), String> {
        let (what, count) = match body {
            CommandBody::CommitObjects { objects, .. } => {
                let slices = objects.iter().map(|object| match &object.contents {
                    ObjectContents::Written(slices) => slices.len(),
                    ObjectContents::Abandoned(partitions) => partitions.len(),
                });
                ("slices of one object", slices.max().unwrap_or(0))
            }
            CommandBody::CommitOffsets { offsets, .. }
            | CommandBody::CommitMemberOffsets { offsets, .. } => {
                self.check_metadata(offsets)?;
                ("offsets in one commit", offsets.len())
            }
            CommandBody::ReleasePartitions { partitions, .. } => {
                ("partitions in one release", partitions.len())
            }
            CommandBody::ReleaseLeases { leases, .. } => ("leases in one release", leases.len()),
            _ => return Ok(()),
        };
        match count > self.limits.batch {
            true => Err(format!("{count} {what}, allowed are {} (--max-batch)", self.limits.batch)),
            false => Ok(()),
        }
    }

    fn check_metadata(&self, offsets: &[(PartitionKey, u64, String)]) -> Result<(), String> {
        let limit = self.limits.offset_metadata_bytes;
        match offsets.iter().map(|(.., metadata)| metadata.len()).max() {
            Some(bytes) if bytes > limit => Err(format!(
                "offset metadata has {bytes} bytes, allowed are {limit} \
                 (--max-offset-metadata-bytes)"
            )),
            _ => Ok(()),
        }
    }

    /// Keeps room for what the command adds.
    ///
    /// RETRY: one that was answered before goes through, to be answered again;
    /// so does one that adds nothing or is refused for another reason. One
    /// whose first attempt is still on its way counts twice, which is `Busy`,
    /// never `Limit`.
    pub(crate) fn admit<K: KvRead>(
        self: &Arc<Self>,
        view: impl FnOnce() -> Result<K, KvError>,
        request: Option<&RequestKey>,
        body: &CommandBody,
    ) -> Result<Result<Room, Shut>, KvError> {
        // SUBTLE: the view is taken under the lock. A command gives up its
        // room after it was applied, so each shows there, or is still coming.
        let mut coming = self.coming.lock();
        let kv = &view()?;
        let answered = match request {
            Some(request) => requests::answered(kv, request)?.is_some(),
            None => false,
        };
        let taken = match body {
            CommandBody::CreateTopic { name, partitions, .. } if !answered => {
                if topics::topic_id(kv, name)?.is_some() {
                    Coming::default()
                } else if *partitions as usize > self.limits.topic_partitions {
                    let limit = self.limits.topic_partitions;
                    return Ok(Err(Shut::Limit(format!(
                        "topic '{}' cannot have {partitions} partitions; allowed are 1 to {limit} \
                         (--max-topic-partitions)",
                        shown(name)
                    ))));
                } else {
                    let partitions = u64::from(*partitions);
                    Coming { topics: 1, partitions, ..Coming::default() }
                }
            }
            CommandBody::RegisterSession(new) if sessions::adds_one(kv, new)? => {
                Coming { sessions: 1, ..Coming::default() }
            }
            CommandBody::InitProducer(asked) if !answered && producers::adds_one(kv, asked)? => {
                Coming { producers: 1, ..Coming::default() }
            }
            CommandBody::CommitOffsets { group, .. } if !answered => {
                let new = offsets::group(kv, group)?.is_none();
                Coming { groups: u64::from(new), ..Coming::default() }
            }
            CommandBody::JoinGroup(join) if !answered => match self.joins(kv, &coming, join)? {
                Ok(taken) => taken,
                Err(shut) => return Ok(Err(shut)),
            },
            _ => Coming::default(),
        };
        if let Err(shut) = self.fits(kv, &coming, &taken)? {
            return Ok(Err(shut));
        }
        coming.topics += taken.topics;
        coming.partitions += taken.partitions;
        coming.sessions += taken.sessions;
        coming.producers += taken.producers;
        coming.groups += taken.groups;
        coming.members += taken.members;
        Ok(Ok(Room { gate: Arc::clone(self), taken }))
    }

    /// What a member adds, unless its group has no room for it.
    fn joins(
        &self,
        kv: &dyn KvRead,
        coming: &Coming,
        join: &GroupJoin,
    ) -> Result<Result<Coming, Shut>, KvError> {
        let partitions = groups::partitions_with(kv, &join.group, &join.topics)?;
        let limit = self.limits.group_partitions;
        if partitions > limit as u64 {
            return Ok(Err(Shut::Limit(format!(
                "the topics of group '{}' would have {partitions} partitions, allowed are {limit} \
                 (--max-group-partitions)",
                shown(&join.group)
            ))));
        }
        let new = offsets::group(kv, &join.group)?.is_none();
        let taken = Coming { groups: u64::from(new), members: 1, ..Coming::default() };
        if !groups::adds_one(kv, join)? {
            return Ok(Ok(Coming { members: 0, ..taken }));
        }
        let there = groups::membership(kv, &join.group)?.map_or(0, |shared| shared.members);
        let limit = self.limits.group_members;
        let fits = within(
            "members in the group",
            "--max-group-members",
            limit,
            there.into(),
            (coming.members, 1),
        );
        Ok(fits.map(|()| taken))
    }

    fn fits(
        &self,
        kv: &dyn KvRead,
        coming: &Coming,
        taken: &Coming,
    ) -> Result<Result<(), Shut>, KvError> {
        if taken.topics > 0 {
            let (there, more) = (topics::topic_count(kv)?, (coming.topics, taken.topics));
            if let Err(shut) = within("topics", "--max-topics", self.limits.topics, there, more) {
                return Ok(Err(shut));
            }
        }
        if taken.partitions > 0 {
            let (there, more) =
                (topics::partition_count(kv)?, (coming.partitions, taken.partitions));
            let limit = self.limits.partitions;
            if let Err(shut) = within("partitions", "--max-partitions", limit, there, more) {
                return Ok(Err(shut));
            }
        }
        if taken.groups > 0 {
            let (there, more) = (offsets::group_count(kv)?, (coming.groups, taken.groups));
            let limit = self.limits.groups;
            if let Err(shut) = within("consumer groups", "--max-groups", limit, there, more) {
                return Ok(Err(shut));
            }
        }
        if taken.sessions > 0 {
            let (there, more) = (sessions::live_count(kv)?, (coming.sessions, taken.sessions));
            let limit = self.limits.sessions;
            if let Err(shut) = within("agent sessions", "--max-sessions", limit, there, more) {
                return Ok(Err(shut));
            }
        }
        if taken.producers > 0 {
            let (there, more) = (producers::count(kv)?, (coming.producers, taken.producers));
            let limit = self.limits.producers;
            if let Err(shut) = within("producers", "--max-producers", limit, there, more) {
                return Ok(Err(shut));
            }
        }
        Ok(Ok(()))
    }
}

fn within(
    what: &str,
    flag: &str,
    limit: usize,
    there: u64,
    (coming, more): (u64, u64),
) -> Result<(), Shut> {
    let limit = limit as u64;
    let message = || {
        format!(
            "the cluster has {there} {what}, and {more} more would exceed its limit of {limit} ({flag})"
        )
    };
    if there.saturating_add(more) > limit {
        return Err(Shut::Limit(message()));
    }
    match there.saturating_add(coming).saturating_add(more) > limit {
        true => Err(Shut::Busy(format!("{}, as {coming} are being created", message()))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::apply;
    use crate::state::assignors::Assignor;
    use crate::state::command::{
        Command, GenerationKey, ProducerEpoch, ProducerRequest, Registration,
    };
    use crate::state::kv::{MemoryKv, Transaction};

    fn create(name: &str, partitions: u32) -> CommandBody {
        let mut topic = [0; 16];
        topic[..name.len()].copy_from_slice(name.as_bytes());
        CommandBody::CreateTopic { topic, name: name.to_owned(), partitions, config: Vec::new() }
    }

    fn register(instance: u8) -> CommandBody {
        CommandBody::RegisterSession(Registration {
            instance: [instance; 16],
            address: format!("a:{instance}"),
            group: "default".to_owned(),
            zone: String::new(),
            pid: 1,
            store_url: "memory://t".to_owned(),
        })
    }

    fn request(number: u64) -> RequestKey {
        RequestKey { requester: [1; 16], number }
    }

    fn run(kv: &mut MemoryKv, index: u64, request: Option<RequestKey>, body: CommandBody) {
        let command = Command { time_ms: 1_000, request, body };
        let mut tx = Transaction::new(kv);
        apply(&mut tx, index, &command).unwrap();
        let writes = tx.into_writes();
        kv.commit(writes);
    }

    fn state() -> MemoryKv {
        let mut kv = MemoryKv::default();
        let generation = GenerationKey { counter: 1, random: 1 };
        run(&mut kv, 1, None, CommandBody::InitCluster { cluster: [1; 16], generation });
        kv
    }

    fn gate() -> Arc<Gate> {
        let limits = Limits {
            topics: 2,
            topic_partitions: 5,
            partitions: 8,
            sessions: 1,
            ..Limits::default()
        };
        Arc::new(Gate::new(limits))
    }

    #[track_caller]
    fn limit(gate: &Arc<Gate>, kv: &MemoryKv, body: &CommandBody, says: &str) {
        match gate.admit(|| Ok(kv.clone()), None, body).unwrap() {
            Err(Shut::Limit(message)) => assert!(message.contains(says), "{message}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_limit_is_named_with_its_value() {
        let (gate, mut kv) = (gate(), state());
        limit(&gate, &kv, &create("a", 6), "allowed are 1 to 5 (--max-topic-partitions)");
        run(&mut kv, 2, None, create("a", 5));
        limit(&gate, &kv, &create("b", 4), "limit of 8 (--max-partitions)");
        run(&mut kv, 3, None, create("b", 1));
        limit(&gate, &kv, &create("c", 1), "limit of 2 (--max-topics)");
        run(&mut kv, 4, None, register(1));
        limit(&gate, &kv, &register(2), "limit of 1 (--max-sessions)");
        // What is there already adds nothing: it is for the state machine to answer.
        assert!(gate.admit(|| Ok(kv.clone()), None, &register(1)).unwrap().is_ok());
        assert!(gate.admit(|| Ok(kv.clone()), None, &create("a", 5)).unwrap().is_ok());
    }

    fn join(group: &str, member: u8, topic: u8) -> CommandBody {
        let mut id = [0; 16];
        id[0] = topic;
        CommandBody::JoinGroup(GroupJoin {
            group: group.to_owned(),
            member: [member; 16],
            instance: None,
            client: String::new(),
            topics: vec![id],
            assignor: Assignor::Sticky,
            session_timeout_ms: 10_000,
            is_member: false,
        })
    }

    fn commit(group: &str, metadata: &str) -> CommandBody {
        let partition = PartitionKey { topic: [1; 16], partition: 0 };
        let offsets = vec![(partition, 1, metadata.to_owned())];
        CommandBody::CommitOffsets { group: group.to_owned(), offsets }
    }

    #[test]
    fn groups_their_members_and_partitions_are_limited() {
        let limits = Limits {
            groups: 1,
            group_members: 1,
            group_partitions: 4,
            offset_metadata_bytes: 3,
            ..Limits::default()
        };
        let (gate, mut kv) = (Arc::new(Gate::new(limits)), state());
        run(&mut kv, 2, None, create("a", 5));
        run(&mut kv, 3, None, create("b", 4));
        limit(&gate, &kv, &join("g", 1, b'a'), "allowed are 4 (--max-group-partitions)");
        run(&mut kv, 4, None, join("g", 1, b'b'));
        limit(&gate, &kv, &join("g", 2, b'b'), "limit of 1 (--max-group-members)");
        limit(&gate, &kv, &join("h", 2, b'b'), "limit of 1 (--max-groups)");
        limit(&gate, &kv, &commit("h", ""), "limit of 1 (--max-groups)");
        // A group, or a member, that is there adds nothing.
        assert!(gate.admit(|| Ok(kv.clone()), None, &join("g", 1, b'b')).unwrap().is_ok());
        assert!(gate.admit(|| Ok(kv.clone()), None, &commit("g", "")).unwrap().is_ok());
        let error = gate.check_batch(&commit("g", "four")).unwrap_err();
        assert!(error.contains("4 bytes, allowed are 3 (--max-offset-metadata-bytes)"), "{error}");
        assert_eq!(*gate.coming.lock(), Coming::default());
    }

    fn init(name: &str, producer: Option<ProducerEpoch>) -> CommandBody {
        let name = (!name.is_empty()).then(|| name.to_owned());
        CommandBody::InitProducer(ProducerRequest { name, producer })
    }

    #[test]
    fn idempotent_producers_are_limited_and_those_that_are_there_go_on() {
        let limits = Limits { producers: 2, ..Limits::default() };
        let (gate, mut kv) = (Arc::new(Gate::new(limits)), state());
        run(&mut kv, 2, Some(request(1)), init("loader", None));
        // What is on its way counts: `Busy` until it is applied.
        let coming = gate.admit(|| Ok(kv.clone()), None, &init("", None)).unwrap().unwrap();
        let busy = gate.admit(|| Ok(kv.clone()), None, &init("other", None)).unwrap();
        assert!(
            matches!(&busy, Err(Shut::Busy(message)) if message.contains("--max-producers")),
            "{busy:?}"
        );
        run(&mut kv, 3, None, init("", None));
        drop((busy, coming));
        for one_more in [init("", None), init("other", None)] {
            limit(&gate, &kv, &one_more, "limit of 2 (--max-producers)");
        }
        // A name that is taken over, a next epoch, and a repeated request add nobody.
        let first = ProducerEpoch { id: 0, epoch: 0 };
        for body in [init("loader", None), init("", Some(first))] {
            assert!(gate.admit(|| Ok(kv.clone()), None, &body).unwrap().is_ok(), "{body:?}");
        }
        let again = gate.admit(|| Ok(kv.clone()), Some(&request(1)), &init("loader", None));
        assert!(again.unwrap().is_ok());
        assert_eq!(*gate.coming.lock(), Coming::default());
    }

    #[test]
    fn what_was_deleted_makes_room() {
        let (gate, mut kv) = (gate(), state());
        run(&mut kv, 2, None, create("a", 5));
        run(&mut kv, 3, None, create("b", 3));
        run(&mut kv, 4, None, CommandBody::DeleteTopic { name: "a".to_owned() });
        run(&mut kv, 5, None, CommandBody::Continue);
        assert!(gate.admit(|| Ok(kv.clone()), None, &create("c", 5)).unwrap().is_ok());
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_answered() {
        let (gate, kv) = (gate(), state());
        let first = gate.admit(|| Ok(kv.clone()), None, &create("a", 5)).unwrap().unwrap();
        let busy = gate.admit(|| Ok(kv.clone()), None, &create("b", 4)).unwrap();
        assert!(
            matches!(&busy, Err(Shut::Busy(message)) if message.contains("--max-partitions")),
            "{busy:?}"
        );
        drop(busy);
        drop(first);
        assert!(gate.admit(|| Ok(kv.clone()), None, &create("b", 4)).unwrap().is_ok());
        assert_eq!(*gate.coming.lock(), Coming::default());
    }

    #[test]
    fn what_was_answered_is_answered_again_at_the_limit() {
        let (gate, mut kv) = (gate(), state());
        run(&mut kv, 2, Some(request(1)), create("a", 5));
        run(&mut kv, 3, None, create("b", 3));
        run(&mut kv, 4, None, CommandBody::DeleteTopic { name: "b".to_owned() });
        run(&mut kv, 5, None, create("c", 3));
        limit(&gate, &kv, &create("d", 1), "limit");
        assert!(gate.admit(|| Ok(kv.clone()), Some(&request(1)), &create("a", 5)).unwrap().is_ok());
    }

    #[test]
    fn a_batch_that_is_too_large_is_refused() {
        let gate = Gate::new(Limits { batch: 2, ..Limits::default() });
        let leases = |count| CommandBody::ReleaseLeases {
            session: 1,
            leases: vec![
                (crate::state::command::PartitionKey { topic: [0; 16], partition: 0 }, 1);
                count
            ],
        };
        assert_eq!(gate.check_batch(&leases(2)), Ok(()));
        let refused = gate.check_batch(&leases(3)).unwrap_err();
        assert_eq!(refused, "3 leases in one release, allowed are 2 (--max-batch)");
    }

    #[test]
    fn limits_that_cannot_be_kept_are_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        for (limits, says) in [
            (Limits { topics: 0, ..Limits::default() }, "--max-topics 0: allowed are 1 to 10000"),
            (
                Limits { batch: 5_000, ..Limits::default() },
                "--max-batch 5000: allowed are 1 to 4096",
            ),
            (Limits { in_flight_bytes: 1 << 20, ..Limits::default() }, "must hold an entry"),
        ] {
            let error = limits.check().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
