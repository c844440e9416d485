//! Connections to the other controllers: one per peer and lane, opened when
//! first used, reopened by tonic when lost.

use super::types::ControllerNode;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::raft_client::RaftClient;
use tonic::transport::{Channel, Endpoint};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What a connection carries. Liveness must not queue behind bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Log entries.
    Log,
    /// Heartbeats and votes.
    Pulse,
    /// Snapshots.
    Snapshot,
    /// Forwarded proposals and read indexes.
    Forward,
}

/// An address that no connection can be made to.
#[derive(Debug, thiserror::Error)]
#[error("address {address:?} of node {node} is not usable")]
pub(crate) struct AddressError {
    node: u64,
    address: String,
}

/// Where the peers are, and the connections to them.
pub(crate) struct Peers {
    configured: BTreeMap<u64, String>,
    channels: Mutex<HashMap<(u64, Lane), (String, Channel)>>,
    /// Those who could not be reached when last tried.
    lost: Mutex<BTreeSet<u64>>,
}

impl Peers {
    pub(crate) fn new(configured: BTreeMap<u64, String>) -> Self {
        Self { configured, channels: Mutex::default(), lost: Mutex::default() }
    }

    /// Notes that `node` cannot be reached; whether that is new.
    pub(crate) fn lose(&self, node: u64) -> bool {
        self.lost.lock().insert(node)
    }

    /// Whoever leads from now on tells of all who cannot be reached.
    pub(crate) fn forget_lost(&self) {
        self.lost.lock().clear();
    }

    /// Notes that `node` is reached; whether that is new.
    pub(crate) fn find(&self, node: u64) -> bool {
        self.lost.lock().remove(&node)
    }

    /// Where `node` is: as configured here, else as the membership says.
    pub(crate) fn address<'a>(&'a self, node: u64, member: &'a ControllerNode) -> &'a str {
        self.configured.get(&node).unwrap_or(&member.address)
    }

    /// A client of `node` at `address`.
    pub(crate) fn client(
        &self,
        node: u64,
        lane: Lane,
        address: &str,
    ) -> Result<RaftClient<Channel>, AddressError> {
        let channel = {
            let mut channels = self.channels.lock();
            match channels.get(&(node, lane)) {
                Some((known, channel)) if known == address => channel.clone(),
                _ => {
                    let channel = connect(node, address)?;
                    channels.insert((node, lane), (address.to_owned(), channel.clone()));
                    channel
                }
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }
}

/// A client of whoever is at `address`, for one call.
pub(crate) fn connect_once(address: &str) -> Result<RaftClient<Channel>, AddressError> {
    Ok(RaftClient::new(connect(0, address)?))
}

fn connect(node: u64, address: &str) -> Result<Channel, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| AddressError { node, address: address.to_owned() })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(streamhouse_host::net::connect_lazy(&endpoint))
}

/// The call never left this process: no connection could be made.
pub(crate) fn never_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
