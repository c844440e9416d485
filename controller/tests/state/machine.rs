//! A state machine in memory and short forms of the commands.

use std::collections::BTreeMap;
use streamhouse_controller::state::command::{
    Command, CommandBody, GenerationKey, ObjectCommit, ObjectContents, PartitionKey, Registration,
    RequestKey, SliceCommit, TopicKey,
};
use streamhouse_controller::state::kv::{MemoryKv, Transaction};
use streamhouse_controller::state::partitions::{Partition, partition};
use streamhouse_controller::state::reply::{Effect, ObjectReply, Reply, SliceReply};
use streamhouse_controller::state::{apply, sessions, topics, work};

pub(crate) const GENERATION: GenerationKey = GenerationKey { counter: 1, random: 7 };
pub(crate) const STORE: &str = "memory://test";

#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) kv: MemoryKv,
    pub(crate) index: u64,
    pub(crate) time_ms: u64,
    pub(crate) effects: Vec<Effect>,
}

impl Machine {
    /// A cluster that has its identity.
    pub(crate) fn new() -> Self {
        let mut machine = Self { time_ms: 1_000_000, ..Self::default() };
        machine.run(CommandBody::InitCluster { cluster: [9; 16], generation: GENERATION });
        machine
    }

    pub(crate) fn run(&mut self, body: CommandBody) -> Reply {
        self.run_as(None, body)
    }

    pub(crate) fn run_as(&mut self, request: Option<RequestKey>, body: CommandBody) -> Reply {
        self.index += 1;
        let command = Command { time_ms: self.time_ms, request, body };
        let mut tx = Transaction::new(&self.kv);
        let (reply, effects) = apply(&mut tx, self.index, &command).expect("memory can be read");
        let writes = tx.into_writes();
        self.kv.commit(writes);
        self.effects = effects;
        reply
    }

    pub(crate) fn finish_work(&mut self) {
        while work::is_due(&self.kv, self.time_ms).expect("memory can be read") {
            self.run(CommandBody::Continue);
        }
    }

    pub(crate) fn topic(&mut self, name: &str, partitions: u32) -> TopicKey {
        let reply = self.create(name, partitions);
        let Reply::Topic(id) = reply else { panic!("{reply:?}") };
        self.finish_work();
        id
    }

    pub(crate) fn create(&mut self, name: &str, partitions: u32) -> Reply {
        let mut topic = [0; 16];
        topic[..8].copy_from_slice(&(self.index + 1).to_be_bytes());
        let config = Vec::new();
        self.run(CommandBody::CreateTopic { topic, name: name.into(), partitions, config })
    }

    pub(crate) fn session(&mut self, address: &str) -> u64 {
        let reply = self.register(address, self.index + 1);
        let Reply::Session(id) = reply else { panic!("{reply:?}") };
        id
    }

    pub(crate) fn register(&mut self, address: &str, instance: u64) -> Reply {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&instance.to_be_bytes());
        self.run(CommandBody::RegisterSession(Registration {
            instance: id,
            address: address.into(),
            group: "default".into(),
            zone: String::new(),
            pid: 1,
            store_url: STORE.into(),
        }))
    }

    pub(crate) fn partition(&self, key: PartitionKey) -> Partition {
        partition(&self.kv, &key).expect("memory can be read").expect("the partition exists")
    }

    /// A slice of `count` records that fits the partition as it is now.
    pub(crate) fn slice(&self, key: PartitionKey, count: u64) -> SliceCommit {
        let partition = self.partition(key);
        slice_at(key, partition.lease_epoch, partition.next_offset, count)
    }

    pub(crate) fn commit(
        &mut self,
        session: u64,
        sequence: u64,
        slices: Vec<SliceCommit>,
    ) -> ObjectReply {
        let contents = ObjectContents::Written(slices);
        self.commit_object(session, ObjectCommit { sequence, size: 1_000, contents })
    }

    pub(crate) fn commit_object(&mut self, session: u64, object: ObjectCommit) -> ObjectReply {
        let instance = self.instance(session);
        self.commit_as(instance, session, object)
    }

    pub(crate) fn commit_as(
        &mut self,
        instance: [u8; 16],
        session: u64,
        object: ObjectCommit,
    ) -> ObjectReply {
        let objects = vec![object];
        let reply = self.run(CommandBody::CommitObjects { session, objects, instance });
        let Reply::Objects(mut replies) = reply else { panic!("{reply:?}") };
        replies.pop().expect("one reply an object")
    }

    /// The instance that registered the session, while it is known.
    fn instance(&self, session: u64) -> [u8; 16] {
        let known = sessions::session(&self.kv, session).expect("memory can be read");
        known.map_or([0; 16], |session| session.instance)
    }

    /// Leases by session, as the partitions have it.
    pub(crate) fn loads(&self) -> BTreeMap<u64, u32> {
        let mut loads = BTreeMap::new();
        for (id, session) in sessions::live(&self.kv).expect("memory can be read") {
            loads.insert(id, session.leases);
        }
        loads
    }

    pub(crate) fn topic_names(&self) -> Vec<String> {
        let all = topics::topics(&self.kv).expect("memory can be read");
        all.into_iter().map(|(_, topic)| topic.name).collect()
    }
}

pub(crate) fn key(topic: TopicKey, partition: u32) -> PartitionKey {
    PartitionKey { topic, partition }
}

pub(crate) fn slice_at(key: PartitionKey, epoch: u32, base: u64, count: u64) -> SliceCommit {
    SliceCommit {
        partition: key,
        lease_epoch: epoch,
        base_offset: base,
        last_offset: base + count - 1,
        record_count: count as u32,
        position: 64,
        length: 100,
        crc32c: 0xfeed,
        append_time_ms: 1,
        min_timestamp_ms: 0,
        max_timestamp_ms: 0,
        flags: 0,
        producers: Vec::new(),
    }
}

pub(crate) fn processed(reply: ObjectReply) -> Vec<SliceReply> {
    match reply {
        ObjectReply::Processed(slices) => slices,
        ObjectReply::Refused(refusal) => panic!("refused: {refusal:?}"),
    }
}

pub(crate) fn accepted(reply: ObjectReply) {
    for slice in processed(reply) {
        assert_eq!(slice.refusal, None);
    }
}

pub(crate) fn request(number: u64) -> Option<RequestKey> {
    Some(RequestKey { requester: [3; 16], number })
}
