//! Connections: who listens, who connects.

use futures::Stream;
use std::io;
use tonic::transport::{Channel, Endpoint, Error};

#[cfg(not(feature = "simulated"))]
pub use tokio::net::{TcpListener, TcpStream};

#[cfg(feature = "simulated")]
pub use crate::simulated::net::{TcpListener, TcpStream};

/// Connections as they come. Small messages leave at once: of an HTTP/2 connection every one counts (TCP_NODELAY).
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        let accepted = accepted.inspect(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
        });
        Some((accepted, listener))
    })
}

/// A channel that connects when it is first used, and again whenever it must.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    #[cfg(not(feature = "simulated"))]
    return endpoint.connect_lazy();
    #[cfg(feature = "simulated")]
    return endpoint.connect_with_connector_lazy(crate::simulated::net::connector());
}

/// A channel that is connected.
///
/// # Errors
/// If no connection came about; nothing was sent then.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    #[cfg(not(feature = "simulated"))]
    return endpoint.connect().await;
    #[cfg(feature = "simulated")]
    return endpoint.connect_with_connector(crate::simulated::net::connector()).await;
}
