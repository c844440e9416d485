//! The flags that say how much a controller takes.

use streamhouse_controller::Limits;

use crate::exit::Failure;
use crate::input::size::size;

/// The same on all controllers of a cluster: the one that leads decides.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitFlags {
    /// Topics of the cluster. Default and most: 10000.
    #[arg(long, value_name = "N")]
    max_topics: Option<usize>,
    /// Partitions of one topic. Default and most: 10000.
    #[arg(long, value_name = "N")]
    max_topic_partitions: Option<usize>,
    /// Partitions of all topics. Default: 100000, most: 1000000.
    #[arg(long, value_name = "N")]
    max_partitions: Option<usize>,
    /// Live sessions of agents; an agent group has 1000 at most. Default: 4000.
    #[arg(long, value_name = "N")]
    max_sessions: Option<usize>,
    /// Slices of an object, offsets of a commit, leases of a release. Default and most: 4096.
    #[arg(long, value_name = "N")]
    max_batch: Option<usize>,
    /// Bytes of one entry of the log. Default and most: 4 MiB.
    #[arg(long, value_name = "BYTES", value_parser = size::<usize>)]
    max_entry_bytes: Option<usize>,
    /// Bytes of one message of an agent or client. Default and most: 20 MiB.
    #[arg(long, value_name = "BYTES", value_parser = size::<usize>)]
    max_message_bytes: Option<usize>,
    /// Bytes of commands that wait to be applied, each counted as 4 KiB at least; beyond it calls are told to try again.
    /// Default: 64 MiB.
    #[arg(long, value_name = "BYTES", value_parser = size::<usize>)]
    max_in_flight_bytes: Option<usize>,
    /// Calls of agents and clients at work in this controller; beyond it they are told to try again. Default: 8192.
    #[arg(long, value_name = "N")]
    max_calls: Option<usize>,
    /// Connections to this controller, peers left aside. Default: 4000.
    #[arg(long, value_name = "N")]
    max_connections: Option<usize>,
    /// Watch streams open at this controller. Default: 10000.
    #[arg(long, value_name = "N")]
    max_watchers: Option<usize>,
    /// Idempotent producers that are remembered; each is for a day after its last record. Default: 1000000, most:
    /// 10000000.
    #[arg(long, value_name = "N")]
    max_producers: Option<usize>,
    /// Consumer groups of the cluster. Default: 10000, most: 100000.
    #[arg(long, value_name = "N")]
    max_groups: Option<usize>,
    /// Members of one consumer group. Default: 2000, most: 10000.
    #[arg(long, value_name = "N")]
    max_group_members: Option<usize>,
    /// Partitions of all topics that a group's members subscribe to. Default and most: 10000.
    #[arg(long, value_name = "N")]
    max_group_partitions: Option<usize>,
    /// Streams of groups' members open at this controller; each member has one at every controller. Default: 10000.
    #[arg(long, value_name = "N")]
    max_member_streams: Option<usize>,
    /// Bytes of metadata committed with an offset. Default and most: 4096.
    #[arg(long, value_name = "BYTES", value_parser = size::<usize>)]
    max_offset_metadata_bytes: Option<usize>,
}

impl LimitFlags {
    /// The limits, if they can be kept.
    pub(super) fn limits(&self) -> Result<Limits, Failure> {
        let default = Limits::default();
        let limits = Limits {
            entry_bytes: self.max_entry_bytes.unwrap_or(default.entry_bytes),
            batch: self.max_batch.unwrap_or(default.batch),
            topics: self.max_topics.unwrap_or(default.topics),
            topic_partitions: self.max_topic_partitions.unwrap_or(default.topic_partitions),
            partitions: self.max_partitions.unwrap_or(default.partitions),
            sessions: self.max_sessions.unwrap_or(default.sessions),
            watchers: self.max_watchers.unwrap_or(default.watchers),
            connections: self.max_connections.unwrap_or(default.connections),
            calls: self.max_calls.unwrap_or(default.calls),
            message_bytes: self.max_message_bytes.unwrap_or(default.message_bytes),
            in_flight_bytes: self.max_in_flight_bytes.unwrap_or(default.in_flight_bytes),
            producers: self.max_producers.unwrap_or(default.producers),
            groups: self.max_groups.unwrap_or(default.groups),
            group_members: self.max_group_members.unwrap_or(default.group_members),
            group_partitions: self.max_group_partitions.unwrap_or(default.group_partitions),
            member_streams: self.max_member_streams.unwrap_or(default.member_streams),
            offset_metadata_bytes: self
                .max_offset_metadata_bytes
                .unwrap_or(default.offset_metadata_bytes),
        };
        limits.check().map_err(Failure::usage)?;
        Ok(limits)
    }
}
