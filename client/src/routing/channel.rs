//! One HTTP/2 connection to a peer.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use streamhouse_host::net;
use streamhouse_proto::MAX_MESSAGE_BYTES;
use streamhouse_proto::v1::metadata_client::MetadataClient;
use streamhouse_proto::v1::produce_client::ProduceClient;
use streamhouse_proto::v1::producers_client::ProducersClient;
use tonic::transport::{Channel, Endpoint};

/// How long a TCP and HTTP/2 handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection is asked for a sign of life after it has been silent for `after`, and is over if none comes within
/// `patience`: a dead peer whose kernel says nothing (power, cable, SIGSTOP), or one that forgot the connection, costs
/// both together.
struct KeepAlive {
    after: Duration,
    patience: Duration,
}

/// Each call to a controller has a limit of its own.
const CONTROLLER: KeepAlive =
    KeepAlive { after: Duration::from_secs(5), patience: Duration::from_secs(5) };
/// A batch waits for as long as its connection is taken for alive. An agent that is itself silent for 3 s loses its
/// leases, so that nothing is lost by giving it up; one whose connection alone is dead keeps them, and nothing but this
/// tells. What a connection has on its way up comes before the sign of life: less than 3 Mbit/s are too slow.
const AGENT: KeepAlive =
    KeepAlive { after: Duration::from_secs(1), patience: Duration::from_secs(3) };

/// Room for batches on their way, so that one round trip does not limit throughput.
const AGENT_STREAM_WINDOW: u32 = 8 << 20;
const AGENT_CONNECTION_WINDOW: u32 = 16 << 20;

/// A client of one controller: of its metadata, and of its producers.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    metadata: MetadataClient<Channel>,
    pub(crate) producers: ProducersClient<Channel>,
}

impl Deref for Client {
    type Target = MetadataClient<Channel>;

    fn deref(&self) -> &Self::Target {
        &self.metadata
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.metadata
    }
}

fn endpoint(address: &str, keep_alive: &KeepAlive) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is no address: {error}"))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(keep_alive.after)
        .keep_alive_timeout(keep_alive.patience)
        .keep_alive_while_idle(true))
}

async fn connect(endpoint: Endpoint) -> Result<Channel, String> {
    match tokio::time::timeout(CONNECT_TIMEOUT, net::connect(&endpoint)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}")),
    }
}

/// Connects to a controller. An error proves that nothing was sent.
pub(crate) async fn controller_client(address: &str) -> Result<Client, String> {
    let channel = connect(endpoint(address, &CONTROLLER)?).await?;
    let producers = ProducersClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let metadata = MetadataClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Client { metadata, producers })
}

/// Connects to an agent. An error proves that nothing was sent.
pub(crate) async fn agent_channel(address: &str) -> Result<ProduceClient<Channel>, String> {
    let endpoint = endpoint(address, &AGENT)?
        .initial_stream_window_size(AGENT_STREAM_WINDOW)
        .initial_connection_window_size(AGENT_CONNECTION_WINDOW);
    Ok(ProduceClient::new(connect(endpoint).await?)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// "transport error" helps nobody; what lies beneath it does.
fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
