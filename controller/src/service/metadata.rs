//! The `Metadata` service: routes each call to the file that answers it.

use super::{Shared, attend, group_views, groups, lookup, members, offsets, topics, watch};
use crate::convert::{generation_wire, hash_text};
use crate::errors::store_failed;
use crate::state::{cluster, sessions, topics as state_topics};
use std::sync::Arc;
use streamhouse_proto::v1;
use streamhouse_proto::v1::metadata_server::Metadata;
use tonic::{Request, Response, Status, Streaming};

/// One per controller.
pub(crate) struct MetadataService(pub(crate) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Metadata for MetadataService {
    type WatchStream = watch::WatchStream;
    type AttendGroupStream = attend::AttendStream;

    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Answer<v1::GetClusterResponse> {
        let view = self.0.raft.view();
        let known = cluster::cluster(&view).map_err(|e| store_failed(&e))?;
        let topics = state_topics::topics(&view).map_err(|e| store_failed(&e))?;
        let status = self.0.raft.status();
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: known.as_ref().map(|c| c.cluster.to_vec()).unwrap_or_default(),
            generation: known.as_ref().map(|c| generation_wire(c.generation)),
            store_url: known.and_then(|c| c.store_url).unwrap_or_default(),
            controllers: members::list(&self.0),
            leader_id: status.leader.unwrap_or(0),
            applied: view.applied(),
            topics: topics.len() as u64,
            feature_level: self.0.raft.feature_levels().0,
        }))
    }

    async fn get_controller(
        &self,
        _: Request<v1::GetControllerRequest>,
    ) -> Answer<v1::GetControllerResponse> {
        let (status, health) = (self.0.raft.status(), self.0.raft.health());
        let view = self.0.raft.view();
        let raft = self.0.raft.clone();
        // It asks the disk.
        let sizes = streamhouse_host::spawn_blocking(move || raft.sizes()).await;
        let sizes = sizes.map_err(|error| Status::internal(error.to_string()))?;
        let age = sizes.snapshot_age.unwrap_or_default();
        let levels = self.0.raft.feature_levels();
        Ok(Response::new(v1::GetControllerResponse {
            id: status.id,
            address: self.0.raft.advertised().to_owned(),
            pid: std::process::id(),
            role: status.role.as_str().to_owned(),
            term: status.term,
            applied: view.applied(),
            last_log: status.last_log,
            state_hash: hash_text(view.state_hash()),
            snapshot: status.snapshot,
            committed: health.committed,
            leader_id: health.leader.unwrap_or(0),
            disk_id: self.0.raft.disk().to_vec(),
            snapshot_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            state_bytes: sizes.state_bytes,
            log_syncs: status.log_syncs,
            feature_level: levels.0,
            reads_level: levels.1,
        }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Answer<v1::ListAgentsResponse> {
        let view = self.0.view_at(0, request.into_inner().linearizable).await?;
        let live = sessions::live(&view).map_err(|e| store_failed(&e))?;
        let agents = live.into_iter().map(|(id, session)| v1::Agent {
            session: id,
            instance: session.instance.to_vec(),
            address: session.address,
            pid: session.pid,
            group: session.group,
            zone: session.zone,
            draining: session.draining,
            leases: u64::from(session.leases),
        });
        let agents = agents.collect();
        Ok(Response::new(v1::ListAgentsResponse { agents, applied: view.applied() }))
    }

    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Answer<v1::CreateTopicResponse> {
        topics::create(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Answer<v1::DeleteTopicResponse> {
        topics::delete(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Answer<v1::ListTopicsResponse> {
        topics::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Answer<v1::DescribeTopicResponse> {
        topics::describe(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn find_segments(
        &self,
        request: Request<v1::FindSegmentsRequest>,
    ) -> Answer<v1::FindSegmentsResponse> {
        lookup::find(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let shared = Arc::clone(&self.0);
        watch::watch(shared, request.into_inner()).await.map(Response::new)
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Answer<v1::CommitOffsetsResponse> {
        offsets::commit(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Answer<v1::FetchOffsetsResponse> {
        offsets::fetch(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn allocate_controller(
        &self,
        request: Request<v1::AllocateControllerRequest>,
    ) -> Answer<v1::AllocateControllerResponse> {
        members::allocate(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn add_controller(
        &self,
        request: Request<v1::AddControllerRequest>,
    ) -> Answer<v1::AddControllerResponse> {
        members::add(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn remove_controller(
        &self,
        request: Request<v1::RemoveControllerRequest>,
    ) -> Answer<v1::RemoveControllerResponse> {
        members::remove(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::TransferLeaderResponse> {
        members::transfer(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn join_group(
        &self,
        request: Request<v1::JoinGroupRequest>,
    ) -> Answer<v1::JoinGroupResponse> {
        groups::join(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn leave_group(
        &self,
        request: Request<v1::LeaveGroupRequest>,
    ) -> Answer<v1::LeaveGroupResponse> {
        groups::leave(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn release_partitions(
        &self,
        request: Request<v1::ReleasePartitionsRequest>,
    ) -> Answer<v1::ReleasePartitionsResponse> {
        groups::release(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn attend_group(
        &self,
        request: Request<Streaming<v1::AttendGroupRequest>>,
    ) -> Answer<Self::AttendGroupStream> {
        attend::attend(Arc::clone(&self.0), request.into_inner()).await.map(Response::new)
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Answer<v1::ListGroupsResponse> {
        group_views::list(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Answer<v1::DescribeGroupResponse> {
        group_views::describe(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Answer<v1::DeleteGroupResponse> {
        groups::delete(&self.0, request.into_inner()).await.map(Response::new)
    }
}
