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

/// A dead peer whose kernel says nothing (power, cable, SIGSTOP) is noticed after these two together.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

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

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is no address: {error}"))?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
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
    let channel = connect(endpoint(address)?).await?;
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
    let endpoint = endpoint(address)?
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
