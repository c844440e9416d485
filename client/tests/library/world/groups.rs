//! A fake group coordinator. Without further orders every member gets all partitions of its topics, as if it were alone.

use std::collections::BTreeSet;

use futures::stream::{self, Stream, StreamExt};
use streamhouse_proto::v1;
use tokio_stream::wrappers::WatchStream;
use tonic::{Status, Streaming};

use super::World;

/// What a test has the coordinator say.
#[derive(Default)]
pub struct Coordinator {
    /// Members, and the topics that they subscribe to.
    pub members: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
    /// Instead of everything: partition of the topic, epoch of its grant, whether it is asked for.
    pub grants: Option<Vec<(u32, u32, bool)>>,
    /// It confirms no sign of life.
    pub deaf: bool,
    /// It answers no sign of life.
    pub mute: bool,
    /// It has not computed yet who is to read what.
    pub assigning: bool,
    /// Commits of these partitions are refused.
    pub refuse_commits: BTreeSet<u32>,
    /// Its answers are as of so many entries before.
    pub behind: u64,
    /// Answers to members so far.
    pub answers: u64,
    /// So many of the next wishes are refused.
    pub refuse_joins: usize,
    /// The controllers that members are told of.
    pub controllers: Vec<String>,
    /// Those that members attended at.
    pub attended: BTreeSet<String>,
    /// The wishes that it took.
    pub joins: Vec<v1::JoinGroupRequest>,
    /// What was asked of it, in order: `join`, `leave`, `release PARTITION@EPOCH`, `commit PARTITION`.
    pub asked: Vec<String>,
}

pub(super) fn join(
    world: &World,
    request: v1::JoinGroupRequest,
) -> Result<v1::JoinGroupResponse, Status> {
    let mut state = world.state.lock();
    if let Some(left) = state.groups.refuse_joins.checked_sub(1) {
        state.groups.refuse_joins = left;
        let info = v1::ErrorInfo::new(v1::ErrorCode::Conflict, "not now");
        return Err(streamhouse_proto::to_status(info));
    }
    state.groups.asked.push("join".to_owned());
    state.groups.members.retain(|(id, _)| *id != request.member_id);
    state.groups.members.push((request.member_id.clone(), request.topic_ids.clone()));
    state.groups.joins.push(request);
    Ok(v1::JoinGroupResponse { member_epoch: 1, applied: state.applied })
}

pub(super) fn leave(world: &World, request: &v1::LeaveGroupRequest) -> v1::LeaveGroupResponse {
    let mut state = world.state.lock();
    state.groups.asked.push("leave".to_owned());
    state.groups.members.retain(|(id, _)| *id != request.member_id);
    v1::LeaveGroupResponse { applied: state.applied }
}

/// What is asked for when it is answered goes.
pub(super) async fn release(
    world: &World,
    request: v1::ReleasePartitionsRequest,
) -> v1::ReleasePartitionsResponse {
    let released = request.partitions.into_iter();
    let released: Vec<_> =
        released.map(|one| (one.partition.unwrap().partition, one.granted_epoch)).collect();
    let asked = released.iter().map(|(partition, epoch)| format!("release {partition}@{epoch}"));
    world.state.lock().groups.asked.extend(asked);
    let _ = world.releases_held.subscribe().wait_for(|held| !held).await;
    let mut state = world.state.lock();
    if let Some(grants) = &mut state.groups.grants {
        grants.retain(|(partition, epoch, revoking)| {
            !revoking || !released.contains(&(*partition, *epoch))
        });
    }
    state.applied += 1;
    v1::ReleasePartitionsResponse { applied: state.applied }
}

enum News {
    Sign(Result<v1::AttendGroupRequest, Status>),
    Changed,
    /// The member went away.
    Over,
}

/// Answers signs of life, and says everything anew when the world changes.
pub(super) fn attend(
    world: World,
    signs: Streaming<v1::AttendGroupRequest>,
) -> impl Stream<Item = Result<v1::AttendGroupResponse, Status>> {
    let changes = WatchStream::from_changes(world.changed.subscribe()).map(|_| News::Changed);
    let signs = signs.map(News::Sign).chain(stream::iter([News::Over]));
    let news = stream::select(signs, changes);
    let last = v1::AttendGroupRequest::default();
    news.scan(last, move |last, news| {
        let goes_on = match news {
            News::Sign(Ok(sign)) => {
                *last = sign;
                true
            }
            News::Changed => true,
            News::Sign(Err(_)) | News::Over => false,
        };
        let answer = goes_on.then(|| answer(&world, last).map(Ok));
        async move { answer }
    })
    .filter_map(async |answer| answer)
}

fn answer(world: &World, sign: &v1::AttendGroupRequest) -> Option<v1::AttendGroupResponse> {
    let mut state = world.state.lock();
    if state.groups.mute {
        return None;
    }
    state.groups.answers += 1;
    let member = state.groups.members.iter().find(|(id, _)| *id == sign.member_id);
    let of =
        |id: &[u8; 16]| member.is_some_and(|(_, topics)| topics.iter().any(|t| t[..] == id[..]));
    let wanted = state.topics.values().filter(|(id, _)| of(id));
    let partitions = wanted.flat_map(|(id, logs)| {
        let all = || (0..logs.len() as u32).map(|partition| (partition, 1, false)).collect();
        let grants: Vec<_> = state.groups.grants.clone().unwrap_or_else(all);
        grants.into_iter().map(|(partition, granted_epoch, revoking)| v1::OwnedPartition {
            partition: Some(v1::TopicPartition { topic_id: id.to_vec(), partition }),
            granted_epoch,
            revoking,
        })
    });
    Some(v1::AttendGroupResponse {
        leader: true,
        term: 1,
        applied: state.applied - state.groups.behind,
        heard: if state.groups.deaf { 0 } else { sign.number },
        fenced: member.is_none(),
        group_epoch: 1,
        assignment: true,
        assigning: state.groups.assigning,
        partitions: partitions.collect(),
        controllers: state.groups.controllers.clone(),
        ..Default::default()
    })
}
