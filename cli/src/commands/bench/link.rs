//! Connections of the benchmark's own: nothing between it and the controllers.

use std::time::Duration;

use streamhouse_client::Admin;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::sessions_client::SessionsClient;
use streamhouse_proto::v1::{ErrorCode, ErrorInfo};
use streamhouse_proto::{advice, from_status};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::commands::status;
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
        let admin = Admin::builder().controllers(seeds).build()?;
        let (cluster, all) = (admin.cluster().await?, admin.controllers().await?);
        let leader =
            status::leader(&all).map(|leader| leader.address.clone()).ok_or_else(|| {
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

/// A connection of its own to `what`, at `address`.
pub(super) async fn connect(what: &str, address: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(CONNECT);
    endpoint.connect().await.map_err(|error| {
        let why = anyhow::Error::from(error);
        Failure::new(Kind::Unavailable, format!("{what} {address}: {why:#}")).into()
    })
}

pub(super) async fn metadata(address: &str) -> anyhow::Result<MetadataClient<Channel>> {
    Ok(MetadataClient::new(connect("controller", address).await?))
}

pub(super) async fn sessions(address: &str) -> anyhow::Result<SessionsClient<Channel>> {
    Ok(SessionsClient::new(connect("controller", address).await?))
}

/// That a call failed, in one line.
pub(super) fn failed(call: &str) -> impl Fn(Status) -> Failure {
    move |status| refused(call, &from_status(&status))
}

/// That a call was refused, in one line.
pub(super) fn refused(call: &str, info: &ErrorInfo) -> Failure {
    let code = info.code();
    let kind = if advice(code).retryable { Kind::Unavailable } else { Kind::Failed };
    let why = if info.message.is_empty() { format!("{code:?}") } else { info.message.clone() };
    Failure::new(kind, format!("{call} failed: {why}"))
}

/// Nothing, if this is no refusal.
pub(super) fn accepted(call: &str, info: Option<&ErrorInfo>) -> Result<(), Failure> {
    match info.filter(|info| info.code() != ErrorCode::Unspecified) {
        Some(info) => Err(refused(call, info)),
        None => Ok(()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_controller_says_is_one_line_and_says_whether_a_retry_may_help() {
        let info = ErrorInfo::new(ErrorCode::NoLeader, "controller 2 does not lead");
        let said = failed("register")(streamhouse_proto::to_status(info));
        let expected =
            Failure::new(Kind::Unavailable, "register failed: controller 2 does not lead");
        assert_eq!(format!("{said:?}"), format!("{expected:?}"));
        let info = ErrorInfo::new(ErrorCode::StaleCommit, "");
        let refused = accepted("slice", Some(&info)).unwrap_err();
        assert_eq!(refused.to_string(), "slice failed: StaleCommit");
        assert!(accepted("slice", Some(&ErrorInfo::default())).is_ok());
    }
}
