//! Proxies whose bytes can be kept back, each way by itself, and let go in order; and that can come to lead elsewhere.

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
        let address = super::free_address();
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
