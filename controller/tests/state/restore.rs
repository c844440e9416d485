//! Restoring a backup: the file, and the steps by which it comes back.

use crate::machine::{Machine, STORE, accepted, key, request, slice_at};
use bytes::Bytes;
use proptest::prelude::*;
use streamhouse_controller::backup::file::{Decoder, Encoder, Header, Item, Totals};
use streamhouse_controller::state::cluster::{cluster, time_ms};
use streamhouse_controller::state::command::{
    CommandBody, GenerationKey, ObjectCommit, ObjectContents, PartitionKey, ProducerBatch,
    ProducerEpoch, ProducerRequest, RestoreStart, RestoredObject, SliceCommit,
};
use streamhouse_controller::state::kv::MemoryKv;
use streamhouse_controller::state::offsets::committed;
use streamhouse_controller::state::reply::{BatchFault, BatchRefusal, ObjectReply, Refusal, Reply};
use streamhouse_controller::state::restore::restoring;
use streamhouse_controller::state::segments::{Source, object, segments_from};
use streamhouse_controller::state::sequences;
use streamhouse_controller::state::sessions::live;
use streamhouse_controller::state::topics::{topic_count, topics};
use streamhouse_controller::state::work;

const NEW: GenerationKey = GenerationKey { counter: 2, random: 99 };
const OLD: GenerationKey = crate::machine::GENERATION;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn encode(kv: &MemoryKv, index: u64) -> Vec<u8> {
    let mut encoder = Encoder::new(kv.clone(), index).unwrap();
    let mut file = Vec::new();
    while let Some(piece) = encoder.next_piece().unwrap() {
        file.extend_from_slice(&piece);
    }
    assert_eq!(encoder.totals().bytes, file.len() as u64);
    file
}

/// Reads a backup that comes `step` bytes at a time.
fn decode(file: &[u8], step: usize) -> Result<(Header, Vec<Pairs>, Totals), String> {
    let mut decoder = Decoder::default();
    let (mut header, mut parts, mut totals) = (None, Vec::new(), None);
    for bytes in file.chunks(step) {
        decoder.feed(bytes);
        while let Some(item) = decoder.next_item().map_err(|e| e.to_string())? {
            match item {
                Item::Header(found) => header = Some(*found),
                Item::Part(pairs) => {
                    let owned = |(k, v): (Bytes, Bytes)| (k.to_vec(), v.to_vec());
                    parts.push(pairs.into_iter().map(owned).collect());
                }
                Item::End(found) => totals = Some(found),
            }
        }
    }
    decoder.finish().map_err(|e| e.to_string())?;
    Ok((header.unwrap(), parts, totals.unwrap()))
}

/// A cluster with two topics, an agent that wrote, and a group that read.
fn backed_up() -> (Machine, [[u8; 16]; 2]) {
    let mut old = Machine::new();
    let agent = old.session("agent:1");
    let orders = old.topic("orders", 2);
    let other = old.topic("other", 3);
    for (sequence, partition) in [(1, 0), (2, 1), (3, 0)] {
        let slice = old.slice(key(orders, partition), 10);
        accepted(old.commit(agent, sequence, vec![slice]));
    }
    old.run_as(
        request(1),
        CommandBody::CommitOffsets {
            group: "readers".into(),
            offsets: vec![(key(orders, 0), 7, "mine".into())],
        },
    );
    (old, [orders, other])
}

fn start(header: &Header, generation: GenerationKey) -> RestoreStart {
    RestoreStart {
        cluster: header.cluster,
        backup_generation: header.generation,
        backup_index: header.index,
        generation,
        time_ms: header.time_ms,
        sessions_upto: header.sessions_upto,
        store_url: header.store_url.clone(),
        feature_level: header.feature_level,
    }
}

/// A new cluster, of an id of its own.
fn empty() -> Machine {
    let mut machine = Machine { time_ms: 500, ..Machine::default() };
    let generation = GenerationKey { counter: 1, random: 5 };
    machine.run(CommandBody::InitCluster { cluster: [4; 16], generation });
    machine
}

fn part(part: u64, pairs: Pairs) -> CommandBody {
    CommandBody::RestorePairs { restore: NEW, part, pairs }
}

fn placing(session: u64, sequence: u64, slices: Vec<SliceCommit>) -> CommandBody {
    let found = RestoredObject { generation: OLD, session, sequence, size: 1_000, slices };
    CommandBody::RestoreSlices { restore: NEW, objects: vec![found] }
}

#[track_caller]
fn refused(reply: &Reply) -> &Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_backup_comes_back_under_a_new_generation_with_what_was_found_after_it() {
    let (old, [orders, other]) = backed_up();
    let (header, parts, totals) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    assert_eq!((header.index, header.generation), (old.index, OLD));
    let mut new = empty();

    // From the beginning on nothing else happens …
    let begun = new.run(CommandBody::BeginRestore(start(&header, NEW)));
    assert_eq!(begun, Reply::Restoring { generation: NEW, next_part: 0 });
    assert_eq!(time_ms(&new.kv).unwrap(), header.time_ms, "cluster time goes on");
    assert_eq!(refused(&new.create("early", 1)), &Refusal::Restoring);
    assert_eq!(refused(&new.register("agent:9", 77)), &Refusal::Restoring);
    // … and such a request is not remembered as refused: it may succeed later.
    let create = |name: &str| CommandBody::CreateTopic {
        topic: [8; 16],
        name: name.into(),
        partitions: 1,
        config: Vec::new(),
    };
    assert_eq!(refused(&new.run_as(request(40), create("later"))), &Refusal::Restoring);

    // The parts come in order; a repeated one changes nothing.
    let count = parts.len() as u64;
    assert_eq!(totals.parts, count);
    let end = |parts| CommandBody::EndRestore { restore: NEW, parts };
    assert_eq!(refused(&new.run(end(count))), &Refusal::OutOfOrder { expected: 0 });
    assert_eq!(refused(&new.run(part(1, parts[0].clone()))), &Refusal::OutOfOrder { expected: 0 });
    for (number, pairs) in (0..).zip(&parts) {
        assert_eq!(new.run(part(number, pairs.clone())), Reply::Done);
        let before = new.kv.pairs.clone();
        assert_eq!(new.run(part(number, Vec::new())), Reply::Done);
        assert_eq!(new.kv.pairs, before);
    }
    assert!(!work::is_due(&new.kv, u64::MAX).unwrap(), "no work during a restore");

    // DENSE: only what continues the index; again without effect.
    let target = key(orders, 0);
    let epoch = new.partition(target).lease_epoch;
    assert_eq!(new.partition(target).next_offset, 20);
    let slices = || vec![slice_at(target, epoch + 4, 20, 5), slice_at(target, epoch, 26, 1)];
    let session = header.sessions_upto + 30;
    for _ in 0..2 {
        let placed = new.run(placing(session, 1, slices()));
        assert_eq!(placed, Reply::Restored(vec![None, Some(Refusal::Stale)]));
        assert_eq!(object(&new.kv, session, 1).unwrap().unwrap().live, 1);
        assert_eq!(new.partition(target).segments, 3);
    }
    let gone = slice_at(key([7; 16], 0), 1, 0, 1);
    let Reply::Restored(results) = new.run(placing(session, 2, vec![gone])) else { panic!() };
    assert!(matches!(results[0], Some(Refusal::UnknownTopic(_))));

    // The end; again, too.
    for _ in 0..2 {
        assert_eq!(new.run(end(count)), Reply::Done);
    }
    assert_eq!(restoring(&new.kv).unwrap(), None);
    let identity = cluster(&new.kv).unwrap().unwrap();
    assert_eq!((identity.cluster, identity.generation), ([9; 16], NEW));
    assert_eq!(identity.store_url.as_deref(), Some(STORE));
    assert_eq!(new.topic_names(), ["orders", "other"]);
    assert_eq!(topic_count(&new.kv).unwrap(), 2);
    assert_eq!(committed(&new.kv, "readers", &target).unwrap().unwrap().offset, 7);
    let entries = segments_from(&new.kv, &target, 0, 10).unwrap();
    let bases: Vec<_> = entries.iter().map(|(base, entry)| (*base, entry.last_offset)).collect();
    assert_eq!(bases, [(0, 9), (10, 19), (20, 24)]);

    // FENCE: the first agent gets everything, under higher epochs; its number
    // is above every session of before, so that no object is another's.
    assert!(live(&new.kv).unwrap().is_empty());
    let agent = new.session("agent:1");
    assert!(agent > session);
    new.finish_work();
    let partition = new.partition(target);
    assert_eq!((partition.holder, partition.lease_epoch), (agent, epoch + 5));
    assert_eq!(new.partition(key(other, 2)).holder, agent);
    let slice = new.slice(target, 1);
    accepted(new.commit(agent, 1, vec![slice]));
    let (_, newest) = segments_from(&new.kv, &target, 25, 1).unwrap().remove(0);
    let Source::L0 { generation, .. } = newest.source;
    assert_eq!(generation, NEW);
    // The request of before is not held against it.
    assert!(matches!(new.run_as(request(40), create("later")), Reply::Topic(_)));
    // RETRY: what the backup remembers is answered as it was.
    let again = CommandBody::CommitOffsets { group: "readers".into(), offsets: Vec::new() };
    assert_eq!(new.run_as(request(1), again), Reply::Offsets(vec![None]));
}

#[test]
fn a_commit_of_a_session_of_before_has_an_unknown_outcome() {
    let (mut old, [orders, _]) = backed_up();
    let (session, _) = live(&old.kv).unwrap().remove(0);
    let (header, parts, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    let late = old.slice(key(orders, 1), 3);
    let mut new = empty();
    new.run(CommandBody::BeginRestore(start(&header, NEW)));
    for (number, pairs) in (0..).zip(&parts) {
        new.run(part(number, pairs.clone()));
    }
    new.run(CommandBody::EndRestore { restore: NEW, parts: parts.len() as u64 });
    // Perhaps the restore has found it; then "refused" would be a lie.
    let contents = ObjectContents::Written(vec![late]);
    let commit = ObjectCommit { sequence: 4, size: 1_000, contents };
    let answer = new.commit_object(session, commit);
    assert_eq!(answer, ObjectReply::Refused(Refusal::OutcomeUnknown));
    accepted(old.commit(session, 4, vec![old.slice(key(orders, 1), 3)]));
}

#[test]
fn a_living_cluster_is_not_restored_into() {
    let (old, _) = backed_up();
    let (header, parts, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    let begin = || CommandBody::BeginRestore(start(&header, NEW));
    let why = |reply: Reply| match reply {
        Reply::Refused(Refusal::NotRestorable(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut with_topic = empty();
    with_topic.topic("t", 1);
    let before = with_topic.kv.pairs.clone();
    assert!(why(with_topic.run(begin())).contains("it has topics"));
    assert_eq!(with_topic.kv.pairs, before);
    let mut with_agent = empty();
    with_agent.session("agent:1");
    assert!(why(with_agent.run(begin())).contains("it has agents"));

    // Another restore that has begun goes first; the same one goes on, under
    // the generation that it had drawn.
    let mut begun = empty();
    begun.run(begin());
    begun.run(part(0, parts[0].clone()));
    let other = RestoreStart { backup_index: 1, ..start(&header, NEW) };
    assert!(why(begun.run(CommandBody::BeginRestore(other))).contains("another restore"));
    let again = start(&header, GenerationKey { counter: 2, random: 1_000 });
    let resumed = begun.run(CommandBody::BeginRestore(again));
    assert_eq!(resumed, Reply::Restoring { generation: NEW, next_part: 1 });
    // A step of a restore that is not this one.
    let stray = GenerationKey { counter: 2, random: 1_000 };
    let reply = begun.run(CommandBody::EndRestore { restore: stray, parts: 1 });
    assert!(why(reply).contains("no such restore"));
    begun.run(CommandBody::EndRestore { restore: NEW, parts: parts.len() as u64 });
    assert!(why(begun.run(begin())).contains("not empty"));
}

fn batch(producer: ProducerEpoch, base_sequence: u32, records: u32) -> ProducerBatch {
    ProducerBatch { producer, base_sequence, records, offset_delta: 0 }
}

#[test]
fn a_restore_rolls_producers_forward_and_gives_no_id_of_before_another_epoch() {
    let (mut old, [orders, _]) = backed_up();
    let at = key(orders, 0);
    let init = |machine: &mut Machine, name: Option<&str>, producer| {
        let asked = ProducerRequest { name: name.map(str::to_owned), producer };
        machine.run(CommandBody::InitProducer(asked))
    };
    let Reply::Producer(named) = init(&mut old, Some("loader"), None) else { panic!() };
    let agent = *old.loads().keys().next().unwrap();
    let mut slice = old.slice(at, 4);
    slice.producers = vec![batch(named, 0, 4)];
    accepted(old.commit(agent, 4, vec![slice]));
    let (header, parts, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();

    // After the backup it writes on, and a producer that the backup does not know writes, too.
    let late = ProducerEpoch { id: named.id + 7, epoch: 2 };
    let mut after = old.slice(at, 5);
    after.producers =
        vec![batch(named, 4, 3), ProducerBatch { offset_delta: 3, ..batch(late, 9, 2) }];
    let mut new = empty();
    new.run(CommandBody::BeginRestore(start(&header, NEW)));
    for (number, pairs) in (0..).zip(parts.iter().cloned()) {
        assert_eq!(new.run(part(number, pairs)), Reply::Done);
    }
    let refusal = init(&mut new, None, None);
    assert_eq!(refused(&refusal), &Refusal::Restoring);
    for _ in 0..2 {
        // RETRY: the second changes nothing.
        let placed = new.run(placing(agent, 5, vec![after.clone()]));
        assert_eq!(placed, Reply::Restored(vec![None]));
    }
    new.run(CommandBody::EndRestore { restore: NEW, parts: parts.len() as u64 });

    let know = |machine: &Machine, id| sequences::committed(&machine.kv, &at, id).unwrap().unwrap();
    assert_eq!((know(&new, named.id).epoch, know(&new, named.id).records), (0, 7));
    assert_eq!((know(&new, late.id).epoch, know(&new, late.id).records), (2, 11));
    assert_eq!(new.partition(at).producers, 2);
    // A batch that was on its way is written once, and the next one follows it.
    let heir = new.session("agent:2");
    let mut next = new.slice(at, 3);
    next.producers = vec![batch(named, 4, 3)];
    let replies = new.commit(heir, 1, vec![next]);
    let ObjectReply::Processed(replies) = replies else { panic!("{replies:?}") };
    let had = BatchRefusal { index: 0, fault: BatchFault::Committed(Some(after.base_offset)) };
    assert_eq!(replies[0].refusal, Some(Refusal::Batches(vec![had])));
    let mut next = new.slice(at, 1);
    next.producers = vec![batch(named, 7, 1)];
    accepted(new.commit(heir, 2, vec![next]));
    // Its next epoch may have been given out after the backup: a new id takes its place, far above all others.
    let Reply::Producer(heir) = init(&mut new, Some("loader"), None) else { panic!() };
    assert!(heir.id > late.id + (1 << 32) - 1 && heir.epoch == 0, "{heir:?}");
    let zombie = init(&mut new, None, Some(named));
    assert!(matches!(refused(&zombie), Refusal::ProducerFenced { .. }));
}

/// A machine that is being restored from a backup of `old`, and is given what was found after it.
fn rolled_forward(old: &Machine, found: Vec<CommandBody>) -> (Machine, Vec<Reply>) {
    let (header, parts, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    let mut new = empty();
    new.run(CommandBody::BeginRestore(start(&header, NEW)));
    for (number, pairs) in (0..).zip(parts.iter().cloned()) {
        assert_eq!(new.run(part(number, pairs)), Reply::Done);
    }
    let replies = found.into_iter().map(|body| new.run(body)).collect();
    new.run(CommandBody::EndRestore { restore: NEW, parts: parts.len() as u64 });
    (new, replies)
}

#[test]
fn a_copy_that_was_refused_stays_out_of_what_is_restored() {
    let (mut old, [orders, _]) = backed_up();
    let at = key(orders, 0);
    let asked = ProducerRequest { name: None, producer: None };
    let Reply::Producer(who) = old.run(CommandBody::InitProducer(asked)) else { panic!() };
    let agent = *old.loads().keys().next().unwrap();
    let mut first = old.slice(at, 4);
    first.producers = vec![batch(who, 0, 4)];
    accepted(old.commit(agent, 4, vec![first]));
    // DEDUP: sent once more elsewhere, stored, and refused when it was to be committed. No object tells of that.
    let mut copy = old.slice(at, 4);
    copy.producers = vec![batch(who, 0, 4)];
    // One of an epoch that was over by then, too; and its successor's, which was accepted in the same place.
    let heir = ProducerEpoch { epoch: 1, ..who };
    let mut next = old.slice(at, 2);
    next.producers = vec![batch(heir, 0, 2)];
    let mut late = slice_at(at, next.lease_epoch, next.base_offset + 2, 3);
    late.producers = vec![batch(who, 4, 3)];

    let found = vec![
        placing(agent, 5, vec![copy]),
        placing(agent, 6, vec![next.clone()]),
        placing(agent, 7, vec![late]),
    ];
    let (new, replies) = rolled_forward(&old, found);
    let placed: Vec<bool> =
        replies.iter().map(|reply| *reply == Reply::Restored(vec![None])).collect();
    assert_eq!(placed, [false, true, false], "{replies:?}");
    assert_eq!(new.partition(at).next_offset, next.last_offset + 1);
    let known = sequences::committed(&new.kv, &at, who.id).unwrap().unwrap();
    assert_eq!((known.epoch, known.records), (1, 2));
}

#[test]
fn a_part_with_what_no_backup_holds_is_refused_whole() {
    let (old, _) = backed_up();
    let (header, parts, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    let mut new = empty();
    new.run(CommandBody::BeginRestore(start(&header, NEW)));
    let before = new.kv.pairs.clone();
    let good = parts[0][0].clone();
    for bad in [
        (vec![0x01], good.1.clone()),
        (vec![0x04], vec![1, 9]),
        (vec![0x12; 20], vec![1]),
        (vec![0x11; 17], vec![1, 255]),
        (vec![], vec![]),
    ] {
        let reply = new.run(part(0, vec![good.clone(), bad.clone()]));
        assert!(matches!(refused(&reply), Refusal::Invalid(_)), "{bad:?}");
        assert_eq!(new.kv.pairs, before, "{bad:?}");
    }
}

#[test]
fn a_backup_during_a_restore_is_refused() {
    let mut new = empty();
    let (old, _) = backed_up();
    let (header, _, _) = decode(&encode(&old.kv, old.index), 1 << 20).unwrap();
    new.run(CommandBody::BeginRestore(start(&header, NEW)));
    assert!(Encoder::new(new.kv.clone(), new.index).is_err());
    assert!(Encoder::new(MemoryKv::default(), 0).is_err(), "nor is there one of nothing");
}

#[test]
fn what_is_no_backup_says_so() {
    let (old, _) = backed_up();
    let file = encode(&old.kv, old.index);
    let why = |bytes: &[u8]| decode(bytes, 4_096).map(|_| ()).unwrap_err();
    assert!(why(b"").contains("cut off"));
    assert!(why(b"SHBACK").contains("cut off"));
    assert!(why(b"hello").contains("is not a backup"));
    assert!(why(b"SHSNAP01 and more than ten bytes").contains("is not a backup"));
    let mut newer = file.clone();
    newer[8] = 2;
    assert!(why(&newer).contains("format version 2"));
    let mut longer = file.clone();
    longer.push(0);
    assert!(why(&longer).contains("damaged: bytes follow"));
}

/// Offsets of a partition's record as the restored state must have it.
fn unassigned(kv: &MemoryKv, partitions: &[PartitionKey]) -> Vec<(u64, u64)> {
    use streamhouse_controller::state::partitions::partition;
    let found = partitions.iter().map(|key| partition(kv, key).unwrap().unwrap());
    found.map(|p| (p.next_offset, p.bytes)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_backup_reads_back_however_its_bytes_come(step in 1..5_000usize, topics_before in 0..40u32) {
        let (mut old, _) = backed_up();
        for number in 0..topics_before {
            old.topic(&format!("t{number}"), 5);
        }
        let file = encode(&old.kv, old.index);
        let (_, parts, totals) = decode(&file, step).unwrap();
        let pairs: usize = parts.iter().map(Vec::len).sum();
        prop_assert_eq!(totals.pairs, pairs as u64);
        for (key, value) in parts.into_iter().flatten() {
            prop_assert_eq!(old.kv.pairs.get(&key), Some(&value));
        }
        let all = topics(&old.kv).unwrap();
        let partitions: Vec<_> = all.iter()
            .flat_map(|(id, topic)| (0..topic.partitions).map(|p| key(*id, p))).collect();
        let (header, parts, _) = decode(&file, 1 << 20).unwrap();
        let mut new = empty();
        new.run(CommandBody::BeginRestore(start(&header, NEW)));
        for (number, pairs) in (0..).zip(&parts) {
            prop_assert_eq!(new.run(part(number, pairs.clone())), Reply::Done);
        }
        prop_assert_eq!(topics(&new.kv).unwrap(), all);
        prop_assert_eq!(unassigned(&new.kv, &partitions), unassigned(&old.kv, &partitions));
    }

    #[test]
    fn a_flipped_bit_or_a_missing_end_is_found(at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let (old, _) = backed_up();
        let mut file = encode(&old.kv, old.index);
        let at = at.index(file.len());
        prop_assert!(decode(&file[..at], 777).is_err());
        file[at] ^= 1 << bit;
        prop_assert!(decode(&file, 777).is_err());
    }
}
