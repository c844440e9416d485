//! What a controller that follows tells those who watch it and ask it, over loopback: all that changes, nothing that
//! is older than what they have seen, and nothing more once it is alone.
use crate::raft_support::PATIENCE;
use crate::raft_support::controllers::{AGENT, INSTANCE, insist, partition_of, patiently};
use crate::raft_support::rig::{Key, Rig};
use std::collections::BTreeMap;
use std::time::Duration;
use streamhouse_proto::from_status;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::{self, ErrorCode};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

fn watch(rig: &Rig, min_applied: u64) -> v1::WatchRequest {
    v1::WatchRequest { topic_ids: rig.topics.clone(), min_applied }
}

fn find(rig: &Rig, min_applied: u64) -> v1::FindSegmentsRequest {
    let (topic, partition) = &rig.partitions[0];
    let range =
        v1::SegmentRange { partition: Some(partition_of(topic, *partition)), ..Default::default() };
    v1::FindSegmentsRequest { ranges: vec![range], min_applied, linearizable: false }
}

/// Commits `offset` of the first partition for the group.
async fn commit_offset(rig: &Rig, number: u64, offset: u64) -> u64 {
    let (topic, partition) = &rig.partitions[0];
    let commit = v1::OffsetCommit {
        partition: Some(partition_of(topic, *partition)),
        offset,
        ..Default::default()
    };
    let request = v1::CommitOffsetsRequest {
        request: Some(v1::RequestId { requester: vec![3; 16], number }),
        group: GROUP.to_owned(),
        offsets: vec![commit],
        ..Default::default()
    };
    let mut metadata = rig.controllers.metadata(rig.leader);
    insist(async || metadata.commit_offsets(request.clone()).await).await.applied
}

const GROUP: &str = "readers";

fn fetch(min_applied: u64) -> v1::FetchOffsetsRequest {
    v1::FetchOffsetsRequest { group: GROUP.to_owned(), min_applied, ..Default::default() }
}

/// What somebody who watches has seen, on one stream or several.
#[derive(Default)]
struct Seen {
    applied: u64,
    ends: BTreeMap<Key, u64>,
}

impl Seen {
    /// Nothing may be older than what was seen before.
    fn note(&mut self, message: &v1::WatchResponse) {
        assert!(message.applied >= self.applied, "{} after {}", message.applied, self.applied);
        self.applied = message.applied;
        for state in &message.partitions {
            let partition = state.partition.clone().unwrap();
            let key = (partition.topic_id, partition.partition);
            let before = self.ends.insert(key, state.high_watermark).unwrap_or(0);
            assert!(state.high_watermark >= before, "{} after {before}", state.high_watermark);
        }
    }

    /// The next message of a stream.
    async fn next(&mut self, stream: &mut Streaming<v1::WatchResponse>) -> v1::WatchResponse {
        let message = patiently(stream.message()).await.unwrap().expect("the stream goes on");
        self.note(&message);
        message
    }

    /// Reads until `ends` are seen, of a watcher that keeps up.
    async fn until(
        &mut self,
        stream: &mut Streaming<v1::WatchResponse>,
        ends: &BTreeMap<Key, u64>,
    ) {
        while self.ends != *ends {
            let message = self.next(stream).await;
            assert!(!message.resync && message.deleted_topic_ids.is_empty(), "{message:?}");
        }
    }
}

async fn open(
    metadata: &mut MetadataClient<Channel>,
    request: v1::WatchRequest,
) -> Streaming<v1::WatchResponse> {
    insist(async || metadata.watch(request.clone()).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_all_there_is_and_goes_on_with_what_changes() {
    let mut rig = Rig::start(1, 8).await;
    let applied = rig.append(0..3).await;
    let mut metadata = rig.controllers.metadata(rig.followers[0]);
    let mut stream = open(&mut metadata, watch(&rig, applied)).await;
    let mut seen = Seen::default();
    let first = seen.next(&mut stream).await;
    assert!(first.applied >= applied && !first.resync && first.deleted_topic_ids.is_empty());
    assert_eq!(seen.ends, rig.ends());
    for state in &first.partitions {
        assert_eq!((state.holder, state.address.as_str()), (rig.agent.session, AGENT));
        assert!(state.lease_epoch > 0 && state.log_start == 0, "{state:?}");
    }

    // Of an append comes that partition alone.
    let applied = rig.append(5..6).await;
    let mut told = Vec::new();
    while seen.ends != rig.ends() {
        let message = seen.next(&mut stream).await;
        assert!(!message.resync, "{message:?}");
        told = message.partitions;
    }
    assert!(seen.applied >= applied);
    assert_eq!(told.len(), 1, "{told:?}");

    // So does a lease that moves, or ends.
    let close = v1::CloseSessionRequest {
        request: Some(v1::RequestId { requester: vec![2; 16], number: 1 }),
        session: rig.agent.session,
        instance: INSTANCE.to_vec(),
    };
    insist(async || rig.agent.client.close_session(close.clone()).await).await;
    let mut without = BTreeMap::new();
    while without.len() < rig.partitions.len() {
        for state in seen.next(&mut stream).await.partitions {
            if state.holder == 0 && state.address.is_empty() {
                without.insert(state.partition.unwrap().partition, state.lease_epoch);
            }
        }
    }
    rig.controllers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_goes_on_elsewhere_without_a_gap() {
    const CUTS: usize = 30;
    let mut rig = Rig::start(1, 8).await;
    let mut seen = Seen::default();
    // A follower that has not applied them yet knows of no partitions.
    let made = rig.append(0..1).await;
    for cut in 0..CUTS {
        // At another controller each time, over another connection.
        let mut metadata = rig.controllers.metadata(rig.followers[cut % 2]);
        let since = seen.applied.max(made);
        let request = watch(&rig, since);
        // What comes just then is in the first answer, or after it.
        let opened = async {
            let mut stream = open(&mut metadata, request).await;
            let first = patiently(stream.message()).await.unwrap().unwrap();
            (stream, first)
        };
        let ((mut stream, first), _) = tokio::join!(opened, rig.append(0..4));
        assert!(first.applied >= since && !first.resync, "{first:?}");
        assert_eq!(first.partitions.len(), rig.partitions.len());
        seen.note(&first);
        // With what was appended while nobody watched, and without anything that were to wake it.
        seen.until(&mut stream, &rig.ends()).await;
        // Some of these are read before it is cut, some never.
        rig.append(2..8).await;
        if cut % 2 == 0 {
            seen.next(&mut stream).await;
        }
        drop((stream, metadata));
        rig.append(cut % 8..8).await;
    }
    rig.controllers.shutdown().await;
}

#[track_caller]
fn is_behind<T: std::fmt::Debug>(outcome: Result<T, Status>) {
    let code = outcome.map_err(|status| from_status(&status).code());
    assert_eq!(code.unwrap_err(), ErrorCode::Behind);
}

/// An answer; one that comes too late is asked for again.
async fn answered<T>(mut call: impl AsyncFnMut() -> Result<tonic::Response<T>, Status>) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer.into_inner(),
            Err(status) => assert_eq!(from_status(&status).code(), ErrorCode::Behind, "{status:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_asked_for_is_answered() {
    /// Rounds in which there was something to wait for.
    const WAITS: u64 = 5;
    let mut rig = Rig::start(1, 1).await;
    let follower = rig.followers[0];
    let applied_here = rig.controllers.running[&follower].raft().applied();
    let (mut one, mut two) =
        (rig.controllers.metadata(follower), rig.controllers.metadata(follower));
    let mut three = rig.controllers.metadata(follower);
    let (mut round, mut behind) = (0, 0);
    while behind < WAITS {
        round += 1;
        assert!(round < 500, "nothing is ever waited for");
        // The leader has applied it when it answers; the follower may not have heard of it.
        let at = rig.append(0..1).await.max(commit_offset(&rig, round, round).await);
        behind += u64::from(*applied_here.borrow() < at);
        let (found, fetched, mut stream) = tokio::join!(
            answered(async || one.find_segments(find(&rig, at)).await),
            answered(async || two.fetch_offsets(fetch(at)).await),
            answered(async || three.watch(watch(&rig, at)).await),
        );
        let first = Seen::default().next(&mut stream).await;
        assert!(found.applied >= at && fetched.applied >= at && first.applied >= at);
        assert_eq!(found.plans[0].high_watermark, round);
        assert_eq!(found.plans[0].segments.len() as u64, round);
        assert_eq!(fetched.offsets[0].offset, round);
        assert_eq!(first.partitions[0].high_watermark, round);
    }
    println!("of {round} rounds the follower was behind in {behind} when it was asked");

    // What nobody has written yet is waited for just so.
    let leader = rig.controllers.running[&rig.leader].raft().applied();
    let at = *leader.borrow() + 3;
    let (to_find, to_watch) = (find(&rig, at), watch(&rig, at));
    let appends = async {
        while *leader.borrow() < at {
            rig.append(0..1).await;
        }
    };
    let (found, fetched, mut stream, ()) = tokio::join!(
        answered(async || one.find_segments(to_find.clone()).await),
        answered(async || two.fetch_offsets(fetch(at)).await),
        answered(async || three.watch(to_watch.clone()).await),
        appends,
    );
    let first = Seen::default().next(&mut stream).await;
    assert!(found.applied >= at && fetched.applied >= at && first.applied >= at);

    // What does not come in time is refused, and not answered from what there is.
    let never = at + 1_000_000;
    let (found, fetched, watched) = tokio::join!(
        one.find_segments(find(&rig, never)),
        two.fetch_offsets(fetch(never)),
        three.watch(watch(&rig, never)),
    );
    is_behind(found);
    is_behind(fetched);
    is_behind(watched.map(|_| ()));
    rig.controllers.shutdown().await;
}

/// More changed partitions than are kept for a watcher that does not read.
const MANY: usize = 12_000;

/// Of a client that takes in little that it did not ask for.
fn narrow(endpoint: Endpoint) -> MetadataClient<Channel> {
    const WINDOW: u32 = 65_535;
    let endpoint = endpoint.initial_stream_window_size(WINDOW);
    MetadataClient::new(endpoint.initial_connection_window_size(WINDOW).connect_lazy())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_is_told_to_begin_anew() {
    const ROUNDS: usize = 4;
    const OBJECT: usize = MANY / 3;
    /// Messages that wait for a reader, on the way and before.
    const WAITING: usize = 10;
    let mut rig = Rig::start(2, MANY as u32 / 2).await;
    let follower = rig.followers[0];
    let mut metadata = narrow(rig.controllers.endpoint(follower));
    let made = *rig.controllers.running[&rig.leader].raft().applied().borrow();
    let mut stream = open(&mut metadata, watch(&rig, made)).await;
    // It has read all there is before it stops reading.
    let mut seen = Seen::default();
    patiently(async {
        while seen.ends.len() < MANY {
            seen.next(&mut stream).await;
        }
    })
    .await;
    let mut applied = 0;
    for _ in 0..ROUNDS {
        for from in (0..MANY).step_by(OBJECT) {
            applied = rig.append(from..from + OBJECT).await;
            let raft = rig.controllers.running[&follower].raft();
            raft.wait_applied(applied, PATIENCE).await.unwrap();
        }
    }

    let mut before = 0;
    let told = patiently(async {
        loop {
            let message = seen.next(&mut stream).await;
            if message.resync {
                break message;
            }
            // A heartbeat comes as long as nothing changes.
            before += usize::from(!message.partitions.is_empty());
        }
    })
    .await;
    println!("{before} messages waited for their reader, of {} changes", ROUNDS * 3);
    assert!(before <= WAITING, "{before} messages");
    // All of them, whatever was told before.
    let mut anew = Seen::default();
    anew.note(&told);
    patiently(async {
        while anew.ends.len() < MANY {
            let more = seen.next(&mut stream).await;
            assert!(more.applied == told.applied && !more.resync);
            anew.note(&more);
        }
        assert!(told.applied < applied || anew.ends == rig.ends(), "not all of it is told");
        // If that was decided before the last appends, they come after it.
        while anew.ends != rig.ends() {
            anew.note(&seen.next(&mut stream).await);
        }
    })
    .await;

    // From there it goes on as before.
    rig.append(7..8).await;
    seen.until(&mut stream, &rig.ends()).await;
    rig.controllers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_at_a_controller_that_is_left_alone_ends() {
    /// How long a watcher may take to learn that it must go elsewhere.
    const SOON: Duration = Duration::from_secs(15);
    let mut rig = Rig::start(1, 4).await;
    let applied = rig.append(0..4).await;
    let [alone, other] = rig.followers;
    let mut metadata = rig.controllers.metadata(alone);
    let mut stream = open(&mut metadata, watch(&rig, applied)).await;
    let mut seen = Seen::default();
    seen.until(&mut stream, &rig.ends()).await;

    rig.controllers.crash([rig.leader, other]).await;
    let ended = async {
        loop {
            match stream.message().await {
                // Heartbeats, until it is sure.
                Ok(Some(message)) => assert!(message.partitions.is_empty(), "{message:?}"),
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => break from_status(&status),
            }
        }
    };
    let reason = tokio::time::timeout(SOON, ended).await.expect("it ends in time");
    assert_eq!(reason.code(), ErrorCode::NoLeader, "{reason:?}");

    // Nor does one that comes later stay.
    let mut stream = open(&mut metadata, watch(&rig, applied)).await;
    let ended = async {
        while let Ok(Some(message)) = stream.message().await {
            seen.note(&message)
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends in time");
    rig.controllers.shutdown().await;
}
