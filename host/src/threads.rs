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

/// The same for long work that nobody waits for: on a thread that the system's scheduler gives little as long as others
/// have anything to do.
#[track_caller]
pub fn spawn_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(not(feature = "simulated"))]
    return tokio::task::spawn_blocking(|| yielding(work));
    #[cfg(feature = "simulated")]
    return spawn_blocking(work);
}

/// What a thread of [`spawn_background`] is behind others by: a tenth of their share, while they want it.
#[cfg(not(feature = "simulated"))]
const NICE: i32 = 10;

/// SUBTLE: on a thread of its own, and not one of the runtime's: without a privilege a thread cannot take back that it
/// steps behind others. The runtime's thread waits for it, so that it does not outlive the runtime.
#[cfg(not(feature = "simulated"))]
fn yielding<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let mut work = Some(work);
    let ended = std::thread::scope(|scope| {
        let run = || {
            // Of the calling thread alone. Where it is refused, the work is done all the same.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "a thread cannot step behind others");
            }
            work.take().map(|work| work())
        };
        let thread = std::thread::Builder::new().name("background".to_owned());
        thread.spawn_scoped(scope, run).map(std::thread::ScopedJoinHandle::join)
    });
    match ended {
        Ok(Ok(Some(done))) => done,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        // The system gave no thread.
        Ok(Ok(None)) | Err(_) => work.take().map(|work| work()).expect("it runs once"),
    }
}

/// The same as [`spawn_blocking`], of a tracker's tasks.
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

#[cfg(all(test, not(feature = "simulated")))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn background_work_steps_behind_others_and_the_threads_of_the_runtime_do_not() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let ours = spawn_blocking(nice).await.unwrap();
        assert_eq!(spawn_background(nice).await.unwrap(), ours.max(NICE));
        assert_eq!(spawn_blocking(nice).await.unwrap(), ours);
    }

    #[tokio::test]
    async fn a_panic_of_background_work_is_the_panic_of_its_handle() {
        let ended = spawn_background(|| panic!("as planned")).await.unwrap_err();
        assert_eq!(ended.into_panic().downcast_ref(), Some(&"as planned"));
    }
}
