//! BOUND: the connections of peers, agents and clients.
//!
//! Who it is shows with the first call only. A few connections above the limit
//! are therefore taken: anybody but a peer is told that there are too many,
//! and is gone a moment later, or as soon as another one comes when all these
//! are taken. So whoever floods a controller with connections keeps out
//! others of his kind, and a peer, which calls as soon as it is connected,
//! always has the time to. Peers have places of their own.

use crate::clock;
use crate::places::{Place, Places};
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use streamhouse_host::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;
use tonic::transport::server::Connected;

/// Connections above the limit.
const SPARE: usize = 256;
/// Connections of peers: several for each of 32 controllers.
const PEERS: usize = 512;
/// How long one of those above the limit may be nobody's.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections as they come, each in a place of its own.
pub(crate) fn admitted(
    incoming: impl Stream<Item = io::Result<TcpStream>>,
    places: Places,
) -> impl Stream<Item = io::Result<Connection>> {
    let mut spare = Spare::new();
    let peers = Places::new("connections of peers", "", PEERS);
    incoming.filter_map(move |stream| match stream {
        Ok(stream) => Connection::admit(stream, &places, &mut spare, &peers).map(Ok),
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
    /// It must go: another one has its place.
    ended: AtomicBool,
    /// Who reads from it.
    reader: AtomicWaker,
    place: Mutex<Place>,
}

impl Seat {
    fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            peer: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            place: Mutex::new(place),
        })
    }
}

/// The places above the limit.
struct Spare {
    free: Places,
    /// For those that had to go, until they are gone.
    leaving: Places,
    /// Who has such a place, in the order in which they came; some are gone,
    /// or peers.
    taken: VecDeque<Weak<Seat>>,
}

impl Spare {
    fn new() -> Self {
        let free = Places::new("spare connections", "", SPARE);
        let leaving = Places::new("connections that are ended", "", SPARE);
        Self { free, leaving, taken: VecDeque::new() }
    }

    /// A seat for one more, if need be in the place of who came first.
    fn seat(&mut self) -> Option<Arc<Seat>> {
        let seat = Seat::new(self.free.take().or_else(|| self.make_room())?);
        if self.taken.len() > SPARE * 2 {
            self.taken.retain(|seat| seat.strong_count() > 0);
        }
        self.taken.push_back(Arc::downgrade(&seat));
        Some(seat)
    }

    fn make_room(&mut self) -> Option<Place> {
        let leaving = self.leaving.take()?;
        while let Some(first) = self.taken.pop_front() {
            let Some(first) = first.upgrade() else { continue };
            // Under this lock it becomes no peer meanwhile.
            let mut place = first.place.lock();
            if first.peer.load(Ordering::Relaxed) {
                continue;
            }
            first.ended.store(true, Ordering::Relaxed);
            let freed = std::mem::replace(&mut *place, leaving);
            first.reader.wake();
            return Some(freed);
        }
        None
    }
}

impl ConnectionInfo {
    /// It is another controller's.
    pub(crate) fn is_peers(&self) {
        if self.seat.peer.load(Ordering::Relaxed) {
            return;
        }
        let mut seat = self.seat.place.lock();
        if !self.seat.ended.load(Ordering::Relaxed)
            && let Some(place) = self.peers.take()
        {
            *seat = place;
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
    fn admit(
        stream: TcpStream,
        places: &Places,
        spare: &mut Spare,
        peers: &Places,
    ) -> Option<Self> {
        let (seat, above) = match places.take() {
            Some(place) => (Seat::new(place), None),
            None => (spare.seat()?, Some(places.clone())),
        };
        let end = above.as_ref().map(|_| {
            let end = Instant::from_std(clock::now() + PATIENCE);
            Box::pin(tokio::time::sleep_until(end))
        });
        let info = ConnectionInfo { above, peers: peers.clone(), seat };
        Some(Self { stream, info, end })
    }

    /// Ends what stayed nobody's for too long, or has lost its place.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(end) = &mut self.end else { return Ok(()) };
        self.info.seat.reader.register(cx.waker());
        if self.info.seat.ended.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::TimedOut.into());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Places {
        Places::new("connections of peers", "", PEERS)
    }

    fn info(seat: &Arc<Seat>, peers: &Places) -> ConnectionInfo {
        ConnectionInfo { above: None, peers: peers.clone(), seat: Arc::clone(seat) }
    }

    fn ended(seat: &Seat) -> bool {
        seat.ended.load(Ordering::Relaxed)
    }

    #[test]
    fn a_flood_makes_room_for_the_next_and_peers_stay() {
        let (mut spare, peers) = (Spare::new(), peers());
        let peer = spare.seat().unwrap();
        info(&peer, &peers).is_peers();
        assert_eq!((spare.free.taken(), peers.taken()), (0, 1));
        let flood: Vec<_> = (0..SPARE).map(|_| spare.seat().unwrap()).collect();
        let next = spare.seat().unwrap();
        assert!(ended(&flood[0]) && !ended(&flood[1]) && !ended(&peer) && !ended(&next));
        // One that had to go is no peer any more.
        info(&flood[0], &peers).is_peers();
        assert_eq!(peers.taken(), 1);
        // The next one still can be.
        info(&next, &peers).is_peers();
        assert_eq!(peers.taken(), 2);
    }

    #[test]
    fn no_more_have_to_go_at_once_than_there_are_places() {
        let mut spare = Spare::new();
        let taken: Vec<_> = (0..SPARE * 2).map(|_| spare.seat().unwrap()).collect();
        assert!(spare.seat().is_none(), "those that were ended are not gone yet");
        drop(taken);
        assert!(spare.seat().is_some());
        assert!(spare.taken.len() <= SPARE * 2 + 1);
    }
}
