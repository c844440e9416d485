//! What every link goes through: one listener a destination, which knows who connects and does what the link's rule
//! says, to the bytes of each direction by themselves.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::links::{LinkWatch, Links, Rule, Way};
use super::node::Node;
use super::sources::Sources;
use crate::clock;

/// BOUND: what a direction of a connection keeps, in pieces of so many bytes.
const PIECES: usize = 64;
const PIECE_BYTES: usize = 64 << 10;

/// One destination's proxy.
pub(super) struct Proxy {
    pub(super) listener: TcpListener,
    pub(super) destination: Node,
    pub(super) upstream: SocketAddr,
    /// The only one that connects here, where that is known beforehand.
    pub(super) source: Option<Node>,
    pub(super) sources: Sources,
    pub(super) links: Links,
}

impl Proxy {
    /// Serves until it is dropped, which resets its connections.
    pub(super) async fn run(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => drop(connections.spawn(self.connection(stream, peer))),
                    Err(error) => tracing::warn!(%error, "proxy cannot accept"),
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (sources, links) = (self.sources.clone(), self.links.clone());
        let (destination, upstream, source) = (self.destination, self.upstream, self.source);
        async move {
            // Such a socket does not block: what is unsent is thrown away.
            let reset = stream.set_zero_linger().and_then(|()| stream.set_nodelay(true));
            let Ok(local) = reset.and_then(|()| stream.local_addr()) else { return };
            let source = match source {
                Some(source) => Some(source),
                None => tokio::task::spawn_blocking(move || sources.find(peer, local))
                    .await
                    .unwrap_or_default(),
            };
            let Some(source) = source else { return };
            let link = links.watch((source, destination));
            if let Err(error) = carry(stream, upstream, link).await {
                tracing::debug!(%source, %destination, %error, "connection ended");
            }
        }
    }
}

/// Carries one connection to its end. Dropped sockets are reset.
async fn carry(mut client: TcpStream, upstream: SocketAddr, mut link: LinkWatch) -> io::Result<()> {
    let cut = link.rule().cut;
    let broken = move |rule: &Rule| rule.refuse || rule.half_open || rule.cut != cut;
    let mut breaks = link.clone();
    let connect = async {
        // As a connection request that is lost until the link is open.
        link.until(|rule| rule.forward != Way::Silent && rule.backward != Way::Silent).await;
        TcpStream::connect(upstream).await
    };
    let mut server = tokio::select! {
        server = connect => server?,
        () = breaks.until(broken) => return Err(io::ErrorKind::ConnectionReset.into()),
    };
    server.set_zero_linger()?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let there = direction(from_client, to_server, link.clone(), |rule| rule.forward);
    let back = direction(from_server, to_client, link.clone(), |rule| rule.backward);
    tokio::select! {
        ended = async { tokio::try_join!(there, back) } => return ended.map(|_| ()),
        () = breaks.until(broken) => {}
    }
    drop(server);
    // The client keeps its connection, to nobody, until the link is whole again: nothing of it is read or answered.
    breaks.until(|rule| !rule.half_open).await;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// One direction: a reader that notes when bytes came, a writer that lets them pass when their time has come.
async fn direction(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut link: LinkWatch,
    way: impl Fn(&Rule) -> Way + Copy,
) -> io::Result<()> {
    let (pieces, mut waiting) = mpsc::channel::<(Instant, Bytes)>(PIECES);
    let read = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            if from.read_buf(&mut piece).await? == 0 {
                return Ok::<_, io::Error>(());
            }
            if pieces.send((clock::now().into(), piece.freeze())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async move {
        while let Some((came, piece)) = waiting.recv().await {
            if let Way::Late(by) = way(&link.rule()) {
                tokio::time::sleep_until(came + by).await;
            }
            link.until(|rule| way(rule) != Way::Silent).await;
            to.write_all(&piece).await?;
        }
        link.until(|rule| way(rule) != Way::Silent).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}
