//! BOUND: how much of everything a controller takes.
//!
//! What decides inside `apply` must be the same on every controller (PURE), so
//! the state machine knows constants only: the highest that each of these may
//! be set to. What an operator sets lower is asked by the leader, before it
//! proposes ([`Gate`]).

mod batch;
mod gate;
mod room;
#[cfg(test)]
mod tests;

pub(crate) use gate::{Gate, Shut};
pub(crate) use room::Room;

use crate::raft::MAX_COMMAND_BYTES;
use crate::state::MAX_BATCH;
use crate::state::groups::{MAX_GROUP_PARTITIONS, MAX_GROUPS, MAX_MEMBERS};
use crate::state::offsets::MAX_METADATA_BYTES;
use crate::state::producers::MAX_PRODUCERS;
use crate::state::topics::{MAX_ALL_PARTITIONS, MAX_PARTITIONS, MAX_TOPICS};
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
            ("--max-producers", self.producers, MAX_PRODUCERS as usize),
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
