//! What agents said to controllers, from the beginning of each connection: to be said once more.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::node::Node;

/// BOUND: connections that are remembered, and bytes of each.
const CONNECTIONS: usize = 16;
const BYTES: usize = 1 << 20;
/// How long answers are waited for.
const ANSWERS: Duration = Duration::from_secs(2);

/// All connections; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tape(Arc<Mutex<VecDeque<Recording>>>);

/// One connection's.
#[derive(Debug, Clone)]
pub(super) struct Recording {
    upstream: SocketAddr,
    said: Arc<Mutex<BytesMut>>,
}

/// What a replay came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Replayed {
    pub(crate) connections: usize,
    /// Bytes said again, and answered.
    pub(crate) said: usize,
    pub(crate) answered: usize,
}

impl Tape {
    /// A connection begins. What clients say is not kept: they count on a refusal being one for good.
    pub(super) fn begin(
        &self,
        source: Node,
        destination: Node,
        upstream: SocketAddr,
    ) -> Option<Recording> {
        if !matches!((source, destination), (Node::Agent(_), Node::Controller(_))) {
            return None;
        }
        let recording = Recording { upstream, said: Arc::default() };
        let mut all = self.0.lock();
        if all.len() == CONNECTIONS {
            // The one that said the least: most connections of a cluster under faults are over before they said anything.
            let least = (0..all.len()).min_by_key(|at| all[*at].said.lock().len());
            least.and_then(|least| all.remove(least));
        }
        all.push_back(recording.clone());
        Some(recording)
    }

    /// Says everything again, to those to whom it was said.
    pub(crate) async fn replay(&self) -> Replayed {
        let all: Vec<_> = self.0.lock().iter().cloned().collect();
        let replayed = join_all(all.iter().map(Recording::replay)).await;
        let mut sum = Replayed::default();
        for (said, answered) in replayed.into_iter().flatten() {
            sum.connections += 1;
            sum.said += said;
            sum.answered += answered;
        }
        sum
    }
}

impl Recording {
    pub(super) fn take(&self, piece: &[u8]) {
        let mut said = self.said.lock();
        let room = BYTES.saturating_sub(said.len()).min(piece.len());
        said.extend_from_slice(&piece[..room]);
    }

    /// Nothing if nobody listens.
    async fn replay(&self) -> Option<(usize, usize)> {
        let said: Bytes = self.said.lock().clone().freeze();
        let mut stream = TcpStream::connect(self.upstream).await.ok()?;
        let (mut from, mut to) = stream.split();
        let mut answered = 0;
        let talk = async {
            let speak = async {
                // One that hangs up has heard enough.
                let _ = to.write_all(&said).await;
            };
            let listen = async {
                let mut answer = BytesMut::with_capacity(64 << 10);
                while from.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {
                    answered += answer.len();
                    answer.clear();
                }
            };
            tokio::join!(speak, listen)
        };
        // Streams have no end of their own.
        let _ = tokio::time::timeout(ANSWERS, talk).await;
        Some((said.len(), answered))
    }
}
