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
use super::tape::{Recording, Tape};
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
    pub(super) tape: Tape,
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
        let tape = self.tape.clone();
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
            let recording = tape.begin(source, destination, upstream);
            if let Err(error) = carry(stream, upstream, link, recording).await {
                tracing::debug!(%source, %destination, %error, "connection ended");
            }
        }
    }
}

/// Carries one connection to its end. Dropped sockets are reset.
async fn carry(
    mut client: TcpStream,
    upstream: SocketAddr,
    mut link: LinkWatch,
    recording: Option<Recording>,
) -> io::Result<()> {
    let cut = link.rule().cut;
    let broken = move |rule: &Rule| rule.refuse || rule.half_open || rule.cut != cut;
    let mut breaks = link.clone();
    let connect = async {
        // As a connection request that is lost until the link is open.
        let open = |rule: &Rule| rule.forward != Way::Silent && rule.backward != Way::Silent;
        if !open(&link.rule()) {
            link.strikes().held_connection();
        }
        link.until(open).await;
        TcpStream::connect(upstream).await
    };
    let mut server = tokio::select! {
        biased;
        () = breaks.until(broken) => return broken_off(breaks).await,
        server = connect => server?,
    };
    server.set_zero_linger()?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let there = direction(from_client, to_server, link.clone(), |rule| rule.forward, recording);
    let back = direction(from_server, to_client, link.clone(), |rule| rule.backward, None);
    tokio::select! {
        ended = async { tokio::try_join!(there, back) } => return ended.map(|_| ()),
        () = breaks.until(broken) => {}
    }
    drop(server);
    broken_off(breaks).await
}

/// The client of a half-open link keeps its connection, to nobody, until the link is whole again, also one that it has
/// made only since: nothing of it is read or answered. Otherwise, and then, it is reset.
async fn broken_off(mut link: LinkWatch) -> io::Result<()> {
    if link.rule().half_open {
        link.strikes().held_connection();
        link.until(|rule| !rule.half_open).await;
    } else {
        link.strikes().reset_connection();
    }
    Err(io::ErrorKind::ConnectionReset.into())
}

/// One direction: a reader that notes when bytes came, a writer that lets them pass when their time has come.
async fn direction(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut link: LinkWatch,
    way: impl Fn(&Rule) -> Way + Copy,
    recording: Option<Recording>,
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
                link.strikes().late(piece.len());
                tokio::time::sleep_until(came + by).await;
            }
            if way(&link.rule()) == Way::Silent {
                link.strikes().held(piece.len());
            }
            link.until(|rule| way(rule) != Way::Silent).await;
            if let Some(recording) = &recording {
                recording.take(&piece);
            }
            to.write_all(&piece).await?;
        }
        link.until(|rule| way(rule) != Way::Silent).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LINK: (Node, Node) = (Node::Client, Node::Agent(1));
    /// Long enough for bytes that pass; what does not pass is waited for in vain.
    const SOON: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(20);

    struct World {
        links: Links,
        client: TcpStream,
        server: TcpStream,
        _proxy: JoinSet<()>,
    }

    impl World {
        /// A client and a server that have spoken to each other by way of a proxy.
        async fn new() -> Self {
            let upstream = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let links = Links::new();
            let proxy = Proxy {
                listener,
                destination: LINK.1,
                upstream: upstream.local_addr().unwrap(),
                source: Some(LINK.0),
                sources: Sources::default(),
                links: links.clone(),
                tape: Tape::default(),
            };
            let mut tasks = JoinSet::new();
            tasks.spawn(proxy.run());
            let client = TcpStream::connect(address).await.unwrap();
            let (server, _) = upstream.accept().await.unwrap();
            let mut world = Self { links, client, server, _proxy: tasks };
            world.ask().await;
            assert!(world.is_asked(PATIENCE).await);
            world
        }

        async fn ask(&mut self) {
            self.client.write_all(b"?").await.unwrap();
        }

        async fn answer(&mut self) {
            self.server.write_all(b"!").await.unwrap();
        }

        async fn is_asked(&mut self, within: Duration) -> bool {
            arrives(&mut self.server, within).await
        }

        async fn is_answered(&mut self, within: Duration) -> bool {
            arrives(&mut self.client, within).await
        }

        fn set(&self, change: impl Fn(&mut Rule)) {
            self.links.set([LINK], change);
        }
    }

    async fn arrives(stream: &mut TcpStream, within: Duration) -> bool {
        let byte = tokio::time::timeout(within, stream.read_u8()).await;
        byte.is_ok_and(|byte| byte.is_ok())
    }

    async fn is_reset(stream: &mut TcpStream) -> bool {
        let ended = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        ended.expect("it ends").is_err()
    }

    #[tokio::test]
    async fn what_waits_on_a_silent_way_arrives_once_it_is_open_and_the_other_way_is_not_touched() {
        let mut world = World::new().await;
        world.set(|rule| rule.forward = Way::Silent);
        world.ask().await;
        assert!(!world.is_asked(SOON).await);
        world.answer().await;
        assert!(world.is_answered(PATIENCE).await);
        world.links.heal();
        assert!(world.is_asked(PATIENCE).await);
    }

    #[tokio::test]
    async fn a_new_connection_on_a_silent_link_leads_nowhere_until_it_is_open() {
        let mut world = World::new().await;
        world.set(|rule| rule.backward = Way::Silent);
        let mut second = TcpStream::connect(world.client.peer_addr().unwrap()).await.unwrap();
        second.write_all(b"?").await.unwrap();
        assert!(!arrives(&mut world.server, SOON).await);
    }

    #[tokio::test]
    async fn a_late_way_is_late() {
        let mut world = World::new().await;
        world.set(|rule| rule.forward = Way::Late(2 * SOON));
        world.ask().await;
        assert!(!world.is_asked(SOON).await);
        assert!(world.is_asked(PATIENCE).await);
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends_once() {
        let mut world = World::new().await;
        world.set(|rule| rule.cut += 1);
        assert!(is_reset(&mut world.client).await);
        assert!(is_reset(&mut world.server).await);
    }

    #[tokio::test]
    async fn a_refusal_resets_what_is_there_and_what_comes() {
        let mut world = World::new().await;
        let proxy = world.client.peer_addr().unwrap();
        world.set(|rule| rule.refuse = true);
        assert!(is_reset(&mut world.client).await);
        let mut second = TcpStream::connect(proxy).await.unwrap();
        assert!(is_reset(&mut second).await);
    }

    #[tokio::test]
    async fn the_client_of_a_half_open_connection_is_told_only_when_that_is_over() {
        let mut world = World::new().await;
        world.set(|rule| rule.half_open = true);
        assert!(is_reset(&mut world.server).await);
        world.ask().await;
        let quiet = tokio::time::timeout(SOON, world.client.read_u8()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        world.links.heal();
        assert!(is_reset(&mut world.client).await);
    }

    #[tokio::test]
    async fn a_new_connection_on_a_half_open_link_leads_nowhere_until_it_is_whole() {
        let world = World::new().await;
        world.set(|rule| rule.half_open = true);
        let mut second = TcpStream::connect(world.client.peer_addr().unwrap()).await.unwrap();
        second.write_all(b"?").await.unwrap();
        let quiet = tokio::time::timeout(SOON, second.read_u8()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        assert_eq!(world.links.heal().held_connections, 2);
        assert!(is_reset(&mut second).await);
    }

    #[tokio::test]
    async fn what_a_rule_does_is_counted_and_what_it_does_not_is_not() {
        let mut world = World::new().await;
        // What passed before, and a rule that nothing comes to.
        world.set(|rule| rule.forward = Way::Silent);
        assert!(!world.links.heal().any());
        world.set(|rule| rule.forward = Way::Silent);
        world.ask().await;
        assert!(!world.is_asked(SOON).await);
        let struck = world.links.heal();
        assert_eq!((struck.links, struck.held_bytes), (1, 1));
        assert!(world.is_asked(PATIENCE).await);
        world.set(|rule| rule.backward = Way::Late(SOON));
        world.answer().await;
        assert!(world.is_answered(PATIENCE).await);
        assert_eq!(world.links.struck().late_bytes, 1);
        world.set(|rule| rule.cut += 1);
        assert!(is_reset(&mut world.client).await);
        assert_eq!(world.links.heal().reset_connections, 1);
        assert!(!world.links.heal().any());
    }
}
