use super::*;
use crate::limits::Limits;
use crate::state::command::{Command, CommandBody, GenerationKey, GroupJoin, TopicKey};
use crate::state::groups::{MAX_ID_BYTES, MAX_TOPICS};
use crate::state::kv::{MemoryKv, Transaction};
use crate::state::names::MAX_NAME_BYTES;
use crate::state::reply::Reply;
use crate::state::{MAX_BATCH, apply, work};
use prost::Message;
use streamhouse_proto::MAX_MESSAGE_BYTES;

#[derive(Default)]
struct Machine {
    kv: MemoryKv,
    index: u64,
}

impl Machine {
    fn run(&mut self, body: CommandBody) {
        self.index += 1;
        let command = Command { time_ms: 1_000, request: None, body };
        let mut tx = Transaction::new(&self.kv);
        let (reply, _) = apply(&mut tx, self.index, &command).unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        let writes = tx.into_writes();
        self.kv.commit(writes);
    }

    fn finish_work(&mut self) {
        while work::is_due(&self.kv, 1_000).unwrap() {
            self.run(CommandBody::Continue);
        }
    }
}

fn id(number: usize) -> TopicKey {
    (number as u128 + 1).to_be_bytes()
}

#[test]
fn the_largest_group_fits_one_answer() {
    let limits = Limits::default();
    let mut machine = Machine::default();
    let generation = GenerationKey { counter: 1, random: 1 };
    machine.run(CommandBody::InitCluster { cluster: [1; 16], generation });
    let each = limits.group_partitions / MAX_TOPICS;
    let topics: Vec<TopicKey> = (0..MAX_TOPICS).map(id).collect();
    for (number, topic) in topics.iter().enumerate() {
        let name = format!("{number:0>MAX_NAME_BYTES$}");
        let (partitions, config) = (each as u32, Vec::new());
        machine.run(CommandBody::CreateTopic { topic: *topic, name, partitions, config });
    }
    machine.finish_work();
    let keys = |topic: &TopicKey| {
        let topic = *topic;
        (0..each as u32).map(move |partition| PartitionKey { topic, partition })
    };
    let metadata = "m".repeat(limits.offset_metadata_bytes);
    let offsets: Vec<_> =
        topics.iter().flat_map(keys).map(|key| (key, 1, metadata.clone())).collect();
    for some in offsets.chunks(MAX_BATCH) {
        let (group, offsets) = ("g".to_owned(), some.to_vec());
        machine.run(CommandBody::CommitOffsets { group, offsets });
    }
    for number in 0..limits.group_members {
        machine.run(CommandBody::JoinGroup(GroupJoin {
            group: "g".to_owned(),
            member: id(number),
            instance: Some(format!("{number:0>MAX_ID_BYTES$}")),
            client: "c".repeat(MAX_ID_BYTES),
            topics: topics.clone(),
            assignor: Assignor::Sticky,
            session_timeout_ms: 10_000,
            is_member: false,
        }));
    }
    machine.finish_work();
    let described = description(&machine.kv, machine.index, "g").unwrap();
    assert_eq!(described.members.len(), limits.group_members);
    assert_eq!(described.partitions.len(), limits.group_partitions);
    assert!(described.partitions.iter().all(|state| !state.owner.is_empty()));
    let bytes = described.encoded_len();
    println!("{bytes} bytes, at most {MAX_MESSAGE_BYTES}");
    assert!(bytes < MAX_MESSAGE_BYTES, "{bytes} bytes");
}
