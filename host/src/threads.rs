//! Work beside the runtime's own threads.

#[cfg(feature = "simulated")]
use crate::simulated;
use std::future::Future;
use std::io;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Runs `work` on a thread where it may block.
#[track_caller]
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(not(feature = "simulated"))]
    return tokio::task::spawn_blocking(work);
    #[cfg(feature = "simulated")]
    #[allow(
        clippy::disallowed_methods,
        reason = "its owner is whoever has the handle, as of a blocking thread"
    )]
    return tokio::spawn(simulated::late(work));
}

/// The same, of a tracker's tasks.
#[track_caller]
pub fn spawn_blocking_on<T: Send + 'static>(
    tasks: &TaskTracker,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(not(feature = "simulated"))]
    return tasks.spawn_blocking(work);
    #[cfg(feature = "simulated")]
    return tasks.spawn(simulated::late(work));
}

/// What a simulated disk makes whoever writes to it wait; nothing, where the disk is a real one.
pub async fn disk_latency() {
    #[cfg(feature = "simulated")]
    simulated::lateness().await;
}

/// A thread with a name and an owner, which runs one future that may block.
///
/// It never outlives its handle: dropping that waits for the future's end, which the owner therefore brings about first.
#[derive(Debug)]
pub struct Worker(
    #[cfg(not(feature = "simulated"))] Option<std::thread::JoinHandle<()>>,
    #[cfg(feature = "simulated")] Option<JoinHandle<()>>,
);

impl Worker {
    /// Starts it.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn spawn(name: &str, work: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        #[cfg(not(feature = "simulated"))]
        {
            let thread = std::thread::Builder::new().name(name.to_owned());
            let thread = thread.spawn(move || futures::executor::block_on(work))?;
            Ok(Self(Some(thread)))
        }
        #[cfg(feature = "simulated")]
        {
            let _ = name;
            #[allow(clippy::disallowed_methods, reason = "its owner is this handle")]
            let task = tokio::spawn(work);
            Ok(Self(Some(task)))
        }
    }

    /// Waits for its end, without blocking.
    pub async fn join(mut self) {
        let Some(handle) = self.0.take() else { return };
        #[cfg(not(feature = "simulated"))]
        let _ = tokio::task::spawn_blocking(move || handle.join()).await;
        #[cfg(feature = "simulated")]
        let _ = handle.await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(handle) = self.0.take() else { return };
        #[cfg(not(feature = "simulated"))]
        let _ = handle.join();
        #[cfg(feature = "simulated")]
        handle.abort();
    }
}
