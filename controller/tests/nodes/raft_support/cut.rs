//! A proxy whose first connection to carry enough is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What went through.
#[derive(Default)]
pub struct Cut {
    /// Sent to the target on the connection that was cut.
    pub before: AtomicU64,
    /// Sent to the target since, on all others.
    pub after: AtomicU64,
    happened: AtomicBool,
}

/// Passes connections at `listen` on to `target`; the first that has sent
/// `limit` bytes breaks.
pub async fn proxy(listen: &str, target: String, limit: u64) -> Arc<Cut> {
    let listener = TcpListener::bind(listen).await.unwrap();
    let cut = Arc::<Cut>::default();
    let shared = Arc::clone(&cut);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Nobody listens at the target yet: the caller tries again.
            let Ok(server) = TcpStream::connect(&target).await else { continue };
            let cut = Arc::clone(&shared);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::select! {
                    () = upstream(&cut, &mut from_client, to_server, limit) => {}
                    _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                }
            });
        }
    });
    cut
}

async fn upstream(
    cut: &Cut,
    from: &mut (impl AsyncReadExt + Unpin),
    mut to: impl AsyncWriteExt + Unpin,
    limit: u64,
) {
    let (mut buffer, mut sent) = (vec![0; 64 << 10], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        sent += read as u64;
        if sent >= limit && !cut.happened.swap(true, Ordering::SeqCst) {
            cut.before.store(sent, Ordering::SeqCst);
            return;
        }
        if cut.happened.load(Ordering::SeqCst) {
            cut.after.fetch_add(read as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
