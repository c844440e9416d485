//! Connections: who listens, who connects.

use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint, Error};

#[cfg(not(feature = "simulated"))]
pub use tokio::net::{TcpListener, TcpStream};

#[cfg(feature = "simulated")]
pub use crate::simulated::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted. After a restart thousands come at once, and one for which there is no room
/// is tried again only after a second, then two, then four. The system has a bound of its own
/// (`net.core.somaxconn`, 4,096 unless set), and the smaller of the two holds.
#[cfg(not(feature = "simulated"))]
const BACKLOG: u32 = 16_384;

/// How long connections that cannot be accepted wait.
const ACCEPT_AGAIN: Duration = Duration::from_millis(250);

/// Listens; where connections of the last process still linger, too.
///
/// # Errors
/// If the address is taken, or not this machine's.
#[cfg_attr(
    not(feature = "simulated"),
    expect(clippy::unused_async, reason = "the simulated one waits")
)]
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    #[cfg(feature = "simulated")]
    return TcpListener::bind(address).await;
    #[cfg(not(feature = "simulated"))]
    {
        use tokio::net::TcpSocket;
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    }
}

/// Connections as they come. Small messages leave at once: of an HTTP/2 connection every one counts (TCP_NODELAY).
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    futures::stream::unfold(listener, async |listener| {
        let stream = accept(&listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Some((Ok(stream), listener))
    })
}

async fn accept(listener: &TcpListener) -> TcpStream {
    use io::ErrorKind as K;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // It went away while it waited.
            Err(error) if matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset) => {}
            // Of descriptors there may be none left, and nothing tells when there is one.
            Err(error) => {
                tracing::warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
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
