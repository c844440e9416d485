//! Founding the cluster. An empty disk founds one only if every listed peer
//! answers and is empty too, and only the lowest number does; so a node that
//! lost its disk never founds a second cluster beside the first.

use super::admission::Admission;
use super::node::RaftNode;
use super::peers::Lane;
use super::types::{ControllerNode, DiskId};
use std::collections::BTreeMap;
use std::time::Duration;
use streamhouse_proto::v1::IdentifyRequest;

const RETRY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the cluster is not founded yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error("node {0} at {1} does not answer: {2}")]
    Silent(u64, String, String),
    #[error("node {0} is expected at {1}, but node {2} answers there")]
    OtherNode(u64, String, u64),
    #[error(
        "node {0} at {1} holds data; this node's disk was replaced, or it is of another cluster"
    )]
    NotEmpty(u64, String),
    #[error("nodes {0} and {1} answer with the same disk")]
    SameDisk(u64, u64),
    #[error("founding failed: {0}")]
    Raft(String),
}

/// Founds the cluster when it can be; returns when it exists or the node
/// stops.
pub(crate) async fn found(node: RaftNode) {
    let core = node.core();
    let lowest = core.options.peers.keys().next() == Some(&core.options.node_id);
    let lowest = lowest && core.options.founds;
    let mut reported = String::new();
    let mut admission = core.admission.subscribe();
    while lowest && core.is_empty() && !core.cancel.is_cancelled() {
        // Founding begins with a vote.
        tokio::select! {
            _ = admission.wait_for(|now| *now == Admission::Admitted) => {}
            () = core.cancel.cancelled() => return,
        }
        match attempt(&node).await {
            Ok(()) => {
                tracing::info!(nodes = core.options.peers.len(), "founded the cluster");
                return;
            }
            Err(not_yet) => {
                let reason = not_yet.to_string();
                if reason != reported {
                    tracing::info!(%reason, "the cluster is not founded yet");
                    reported = reason;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = core.cancel.cancelled() => {}
        }
    }
}

async fn attempt(node: &RaftNode) -> Result<(), NotYet> {
    let core = node.core();
    let own = core.options.node_id;
    let mut disks = BTreeMap::from([(core.disk, own)]);
    let mut members = BTreeMap::new();
    for (&peer, address) in &core.options.peers {
        let disk = match peer == own {
            true => core.disk,
            false => identify(node, peer, address).await?,
        };
        if let Some(other) = disks.insert(disk, peer)
            && other != peer
        {
            return Err(NotYet::SameDisk(other, peer));
        }
        members.insert(peer, ControllerNode { address: address.clone(), disk, replaces: 0 });
    }
    core.raft.initialize(members).await.map_err(|e| NotYet::Raft(e.to_string()))
}

async fn identify(node: &RaftNode, peer: u64, address: &str) -> Result<DiskId, NotYet> {
    let silent = |why: String| NotYet::Silent(peer, address.to_owned(), why);
    let client = node.core().peers.client(peer, Lane::Forward, address);
    let mut client = client.map_err(|e| silent(e.to_string()))?;
    let answer = tokio::time::timeout(PATIENCE, client.identify(IdentifyRequest::default())).await;
    let answer = answer.map_err(|_| silent("timed out".into()))?;
    let answer = answer.map_err(|status| silent(status.message().to_owned()))?.into_inner();
    if answer.node_id != peer {
        return Err(NotYet::OtherNode(peer, address.to_owned(), answer.node_id));
    }
    if !answer.empty {
        return Err(NotYet::NotEmpty(peer, address.to_owned()));
    }
    DiskId::try_from(answer.disk_id.as_slice()).map_err(|_| silent("disk id is malformed".into()))
}
