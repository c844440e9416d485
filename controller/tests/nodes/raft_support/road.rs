//! Proxies whose bytes can be kept back, each way by itself, and let go in order; and that can come to lead elsewhere.

use super::{Cluster, clock, free_address, options, start};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where one controller finds another.
pub struct Road {
    /// Its own address, in place of the destination's.
    pub address: String,
    /// What is sent to the destination goes on.
    pub there: watch::Sender<bool>,
    /// What the destination answers goes on.
    pub back: watch::Sender<bool>,
    /// The destination. A change ends the connections to the one before.
    pub target: watch::Sender<String>,
}

impl Road {
    /// An open one to `target`.
    pub async fn to(target: String) -> Self {
        let address = free_address();
        let listener = TcpListener::bind(&address).await.unwrap();
        let (there, back) = (watch::Sender::new(true), watch::Sender::new(true));
        let target = watch::Sender::new(target);
        let gates = (there.subscribe(), back.subscribe());
        let mut leads = target.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Nobody listens at the target yet: the caller tries again.
                let to = leads.borrow_and_update().clone();
                let Ok(server) = TcpStream::connect(to).await else { continue };
                let (there, back) = gates.clone();
                let mut moved = leads.clone();
                tokio::spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = carry(from_client, to_server, there) => {}
                        () = carry(from_server, to_client, back) => {}
                        _ = moved.changed() => {}
                    }
                });
            }
        });
        Self { address, there, back, target }
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if open.wait_for(|open| *open).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}

/// Three controllers; the first finds the others, and they find it, by roads.
pub struct OnRoads {
    pub cluster: Cluster,
    pub from_first: BTreeMap<u64, Road>,
    pub to_first: BTreeMap<u64, Road>,
}

impl OnRoads {
    pub async fn start() -> Self {
        let addresses: BTreeMap<u64, String> = (1..=3).map(|id| (id, free_address())).collect();
        let (mut from_first, mut to_first) = (BTreeMap::new(), BTreeMap::new());
        for id in 2..=3 {
            from_first.insert(id, Road::to(addresses[&id].clone()).await);
            to_first.insert(id, Road::to(addresses[&1].clone()).await);
        }
        let cluster = Cluster {
            dirs: (1..=3).map(|id| (id, tempfile::tempdir().unwrap())).collect(),
            addresses,
            running: BTreeMap::new(),
            tune: |_| (),
            clock,
        };
        let mut started = Self { cluster, from_first, to_first };
        for id in 1..=3 {
            started.launch(id).await;
        }
        started
    }

    /// Starts controller `id` on its disk.
    pub async fn launch(&mut self, id: u64) {
        let Cluster { dirs, addresses, tune, .. } = &self.cluster;
        let mut options = options(id, addresses, dirs[&id].path(), *tune);
        match self.to_first.get(&id) {
            Some(road) => drop(options.peers.insert(1, road.address.clone())),
            None => {
                // For so long its reads wait to be confirmed.
                options.election_max = Duration::from_secs(2);
                let roads = self.from_first.iter();
                options.peers.extend(roads.map(|(id, road)| (*id, road.address.clone())));
            }
        }
        self.cluster.running.insert(id, start(options).await);
    }

    pub fn open_all(&self, open: bool) {
        for road in self.from_first.values().chain(self.to_first.values()) {
            road.there.send_replace(open);
            road.back.send_replace(open);
        }
    }
}
