//! Connections of the benchmark's own: nothing between it and the controllers.

use std::time::Duration;

use anyhow::Context as _;
use streamhouse_client::Admin;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use tonic::transport::{Channel, Endpoint};

use crate::exit::{Failure, Kind};

const CONNECT: Duration = Duration::from_secs(2);

/// The controllers, and which of them leads.
#[derive(Clone, Debug)]
pub(super) struct Controllers {
    pub(super) addresses: Vec<String>,
    pub(super) leader: String,
    pub(super) store_url: Option<String>,
}

impl Controllers {
    pub(super) async fn find(seeds: Vec<String>) -> anyhow::Result<Self> {
        let cluster = Admin::builder().controllers(seeds).build()?.cluster().await?;
        let leader = cluster.controllers.iter().find(|member| Some(member.id) == cluster.leader);
        let leader = leader.map(|member| member.address.clone()).ok_or_else(|| {
            Failure::new(Kind::Unavailable, "no controller leads just now: try again")
        })?;
        let voters = cluster.controllers.into_iter().filter(|member| member.voter);
        let addresses = voters.map(|member| member.address).collect();
        Ok(Self { addresses, leader, store_url: cluster.store_url })
    }

    /// The address for client `n`, if clients are spread over all.
    pub(super) fn spread(&self, n: usize) -> &str {
        &self.addresses[n % self.addresses.len()]
    }
}

async fn connect(address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(CONNECT);
    endpoint.connect().await.with_context(|| format!("controller {address}"))
}

pub(super) async fn metadata(address: &str) -> anyhow::Result<MetadataClient<Channel>> {
    Ok(MetadataClient::new(connect(address).await?))
}

pub(super) async fn sessions(address: &str) -> anyhow::Result<SessionsClient<Channel>> {
    Ok(SessionsClient::new(connect(address).await?))
}

/// A name that nothing else has.
pub(super) fn unique_name() -> String {
    format!("bench-{}", unique_id())
}

/// 32 hexadecimal digits that nothing else has.
pub(super) fn unique_id() -> String {
    random().simple().to_string()
}

/// 16 random bytes.
pub(super) fn random_id() -> Vec<u8> {
    random().into_bytes().to_vec()
}

#[expect(clippy::disallowed_methods, reason = "the only source of random values of this command")]
fn random() -> uuid::Uuid {
    uuid::Uuid::new_v4()
}
