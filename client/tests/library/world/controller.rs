//! A fake controller.

use std::collections::BTreeSet;
use std::pin::Pin;

use futures::{Stream, StreamExt};
use streamhouse_proto::{to_status, v1};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::{CLUSTER, GENERATION, State, World, groups, plans};

pub(super) struct Fake(pub(super) World, pub(super) String);

type Answer<T> = Result<Response<T>, Status>;

fn refuse<T>(code: v1::ErrorCode, message: &str) -> Answer<T> {
    Err(to_status(v1::ErrorInfo::new(code, message)))
}

fn summary(name: &str, state: &State) -> v1::TopicSummary {
    let (id, logs) = &state.topics[name];
    v1::TopicSummary {
        topic_id: id.to_vec(),
        name: name.to_owned(),
        partitions: logs.len() as u32,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl v1::metadata_server::Metadata for Fake {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Answer<v1::GetClusterResponse> {
        let state = self.0.state.lock();
        let controllers = state.controllers.iter().enumerate();
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: CLUSTER.to_vec(),
            generation: Some(GENERATION),
            controllers: controllers
                .map(|(index, address)| v1::ControllerAddress {
                    id: index as u64 + 1,
                    address: address.clone(),
                    voter: true,
                })
                .collect(),
            leader_id: 1,
            applied: state.applied,
            topics: state.topics.len() as u64,
            ..Default::default()
        }))
    }

    async fn get_controller(
        &self,
        _: Request<v1::GetControllerRequest>,
    ) -> Answer<v1::GetControllerResponse> {
        Ok(Response::new(v1::GetControllerResponse {
            id: 1,
            role: "leader".into(),
            ..Default::default()
        }))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Answer<v1::ListAgentsResponse> {
        Ok(Response::new(v1::ListAgentsResponse::default()))
    }

    async fn create_topic(
        &self,
        r: Request<v1::CreateTopicRequest>,
    ) -> Answer<v1::CreateTopicResponse> {
        let request = r.into_inner();
        if self.0.state.lock().topics.contains_key(&request.name) {
            return refuse(v1::ErrorCode::TopicExists, "it exists");
        }
        self.0.add_topic(&request.name, request.partitions as usize, "");
        let topic_id = self.0.state.lock().topics[&request.name].0.to_vec();
        Ok(Response::new(v1::CreateTopicResponse { topic_id, applied: 1 }))
    }

    async fn delete_topic(
        &self,
        r: Request<v1::DeleteTopicRequest>,
    ) -> Answer<v1::DeleteTopicResponse> {
        match self.0.state.lock().topics.remove(&r.into_inner().name) {
            Some((id, _)) => {
                Ok(Response::new(v1::DeleteTopicResponse { topic_id: id.to_vec(), applied: 1 }))
            }
            None => refuse(v1::ErrorCode::UnknownTopic, "unknown"),
        }
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Answer<v1::ListTopicsResponse> {
        let state = self.0.state.lock();
        let topics = state.topics.keys().map(|name| summary(name, &state)).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics, applied: state.applied }))
    }

    async fn describe_topic(
        &self,
        r: Request<v1::DescribeTopicRequest>,
    ) -> Answer<v1::DescribeTopicResponse> {
        if self.0.is_silent() {
            return std::future::pending().await;
        }
        let mut state = self.0.state.lock();
        let request = r.into_inner();
        if state.unavailable {
            return refuse(v1::ErrorCode::NoLeader, "no leader");
        }
        state.lagging &= !request.linearizable;
        let wanted = request.topic;
        let found = state.topics.iter().find(|(name, (id, _))| match &wanted {
            Some(v1::describe_topic_request::Topic::Name(wanted)) => wanted == *name,
            Some(v1::describe_topic_request::Topic::TopicId(wanted)) => wanted.as_slice() == id,
            None => false,
        });
        let Some((name, (_, logs))) = found else {
            return refuse(v1::ErrorCode::UnknownTopic, "unknown topic");
        };
        let partitions = logs.iter().enumerate().map(|(index, log)| v1::Partition {
            partition: index as u32,
            holder: 5,
            address: log.agent.clone(),
            lease_epoch: 1,
            log_start: log.log_start,
            high_watermark: log.next_offset,
            ..Default::default()
        });
        Ok(Response::new(v1::DescribeTopicResponse {
            topic: Some(summary(name, &state)),
            partitions: partitions.collect(),
            applied: state.applied,
        }))
    }

    async fn find_segments(
        &self,
        r: Request<v1::FindSegmentsRequest>,
    ) -> Answer<v1::FindSegmentsResponse> {
        plans::find(&mut self.0.state.lock(), r.into_inner()).map(Response::new)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, r: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let topics = r.into_inner().topic_ids;
        if topics.len() > 100 {
            return refuse(v1::ErrorCode::InvalidArgument, "too many topics in one watch");
        }
        let world = self.0.clone();
        let changes = WatchStream::new(world.changed.subscribe());
        let mut told = BTreeSet::new();
        let stream = changes.map(move |_| {
            let state = world.state.lock();
            let known: BTreeSet<_> = state.topics.values().map(|(id, _)| id.to_vec()).collect();
            let missing = topics.iter().filter(|id| !known.contains(*id));
            let deleted_topic_ids =
                missing.filter(|id| told.insert((*id).clone())).cloned().collect();
            let mut partitions = Vec::new();
            for (id, logs) in state.topics.values().filter(|(id, _)| topics.contains(&id.to_vec()))
            {
                for (index, log) in logs.iter().enumerate() {
                    partitions.push(v1::PartitionState {
                        partition: Some(v1::TopicPartition {
                            topic_id: id.to_vec(),
                            partition: index as u32,
                        }),
                        log_start: log.log_start,
                        high_watermark: log.segments.last().map_or(0, |last| last.last_offset + 1),
                        ..Default::default()
                    });
                }
            }
            Ok(v1::WatchResponse {
                applied: state.applied,
                partitions,
                deleted_topic_ids,
                ..Default::default()
            })
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn commit_offsets(
        &self,
        r: Request<v1::CommitOffsetsRequest>,
    ) -> Answer<v1::CommitOffsetsResponse> {
        let request = r.into_inner();
        let mut held = self.0.commits_held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        if request.offsets.len() > 4_096 {
            return refuse(v1::ErrorCode::InvalidArgument, "too many offsets");
        }
        let mut state = self.0.state.lock();
        state.commits.push(request.clone());
        for commit in &request.offsets {
            let partition = commit.partition.as_ref().unwrap().partition;
            state.groups.asked.push(format!("commit {partition}"));
        }
        let mut results = Vec::new();
        for commit in &request.offsets {
            let at = commit.partition.clone().unwrap();
            if state.groups.refuse_commits.contains(&at.partition) {
                let refusal = v1::ErrorInfo::new(v1::ErrorCode::StaleMember, "not its owner");
                results.push(refusal);
                continue;
            }
            let key = (request.group.clone(), at.topic_id, at.partition);
            state.offsets.insert(key, (commit.offset, commit.metadata.clone()));
            results.push(v1::ErrorInfo::default());
        }
        state.applied += 1;
        Ok(Response::new(v1::CommitOffsetsResponse { results, applied: state.applied }))
    }

    async fn fetch_offsets(
        &self,
        r: Request<v1::FetchOffsetsRequest>,
    ) -> Answer<v1::FetchOffsetsResponse> {
        let request = r.into_inner();
        if request.partitions.len() > 4_096 {
            return refuse(v1::ErrorCode::InvalidArgument, "too many offsets");
        }
        let state = self.0.state.lock();
        let offsets = request.partitions.into_iter().filter_map(|at| {
            let key = (request.group.clone(), at.topic_id.clone(), at.partition);
            let (offset, metadata) = state.offsets.get(&key)?.clone();
            let partition = Some(at);
            Some(v1::CommittedOffset { partition, offset, metadata, ..Default::default() })
        });
        Ok(Response::new(v1::FetchOffsetsResponse {
            offsets: offsets.collect(),
            applied: state.applied,
        }))
    }

    async fn allocate_controller(
        &self,
        _: Request<v1::AllocateControllerRequest>,
    ) -> Result<Response<v1::AllocateControllerResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn add_controller(
        &self,
        _: Request<v1::AddControllerRequest>,
    ) -> Result<Response<v1::AddControllerResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn remove_controller(
        &self,
        _: Request<v1::RemoveControllerRequest>,
    ) -> Result<Response<v1::RemoveControllerResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn join_group(
        &self,
        r: Request<v1::JoinGroupRequest>,
    ) -> Result<Response<v1::JoinGroupResponse>, Status> {
        groups::join(&self.0, r.into_inner()).map(Response::new)
    }

    async fn leave_group(
        &self,
        r: Request<v1::LeaveGroupRequest>,
    ) -> Result<Response<v1::LeaveGroupResponse>, Status> {
        Ok(Response::new(groups::leave(&self.0, &r.into_inner())))
    }

    async fn release_partitions(
        &self,
        r: Request<v1::ReleasePartitionsRequest>,
    ) -> Result<Response<v1::ReleasePartitionsResponse>, Status> {
        Ok(Response::new(groups::release(&self.0, r.into_inner()).await))
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn describe_group(
        &self,
        _: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn delete_group(
        &self,
        _: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    type AttendGroupStream =
        Pin<Box<dyn Stream<Item = Result<v1::AttendGroupResponse, Status>> + Send>>;

    async fn attend_group(
        &self,
        r: Request<tonic::Streaming<v1::AttendGroupRequest>>,
    ) -> Result<Response<Self::AttendGroupStream>, Status> {
        self.0.state.lock().groups.attended.insert(self.1.clone());
        let answers = groups::attend(self.0.clone(), r.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }
}
