//! BOUND: the connections of peers, agents and clients.
//!
//! Who it is shows with the first call only. A few connections above the limit
//! are therefore taken: anybody but a peer is told that there are too many,
//! and is gone a moment later. Peers have places of their own.

use crate::clock;
use crate::places::{Place, Places};
use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::server::{Connected, TcpIncoming};

/// Connections above the limit.
const SPARE: usize = 256;
/// Connections of peers: several for each of 32 controllers.
const PEERS: usize = 512;
/// How long one of those above the limit may be nobody's.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections as they come, each in a place of its own.
pub(crate) fn admitted(
    incoming: TcpIncoming,
    places: Places,
) -> impl Stream<Item = io::Result<Connection>> {
    let spare = Places::new("spare connections", "", SPARE);
    let peers = Places::new("connections of peers", "", PEERS);
    incoming.filter_map(move |stream| match stream {
        Ok(stream) => Connection::admit(stream, &places, &spare, &peers).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    info: ConnectionInfo,
    /// When one above the limit ends, unless it is a peer's.
    end: Option<Pin<Box<Sleep>>>,
}

/// What calls know of their connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    /// The limit that it is above.
    above: Option<Places>,
    peers: Places,
    seat: Arc<Seat>,
}

/// Where it counts.
#[derive(Debug)]
struct Seat {
    peer: AtomicBool,
    place: Mutex<Place>,
}

impl ConnectionInfo {
    /// It is another controller's.
    pub(crate) fn is_peers(&self) {
        if self.seat.peer.load(Ordering::Relaxed) {
            return;
        }
        if let Some(place) = self.peers.take() {
            *self.seat.place.lock() = place;
            self.seat.peer.store(true, Ordering::Relaxed);
        }
    }

    /// What calls on it are answered, if it is above the limit.
    pub(crate) fn refusal(&self) -> Option<Status> {
        self.above.as_ref().map(Places::refusal)
    }
}

impl Connection {
    /// Nothing, and the end of the connection, if there is no place at all.
    fn admit(stream: TcpStream, places: &Places, spare: &Places, peers: &Places) -> Option<Self> {
        let (place, above) = match places.take() {
            Some(place) => (place, None),
            None => (spare.take()?, Some(places.clone())),
        };
        let end = above.as_ref().map(|_| {
            let end = Instant::from_std(clock::now() + PATIENCE);
            Box::pin(tokio::time::sleep_until(end))
        });
        let seat = Seat { peer: AtomicBool::new(false), place: Mutex::new(place) };
        let info = ConnectionInfo { above, peers: peers.clone(), seat: Arc::new(seat) };
        Some(Self { stream, info, end })
    }

    /// Ends what stayed nobody's for too long.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        if end.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.end = None;
        match self.info.seat.peer.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
