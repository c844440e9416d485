//! Loads that run in the background while something is done to a cluster. Each goes on until it is stopped, through
//! everything that can be tried again, and tells how much it got done and how long it had to wait.
mod consumer;
mod offsets;
mod records;
mod topics;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use streamhouse_tests::until;
use tokio::runtime::Runtime;

pub(crate) use consumer::consumer;
pub(crate) use offsets::{CALL, client, commit, committed, offsets};
pub(crate) use records::{Records, records};
pub(crate) use topics::topics;

const PATIENCE: Duration = Duration::from_secs(60);

/// What a load and whoever started it know of each other.
#[derive(Clone, Default)]
pub(crate) struct Course {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    longest_us: Arc<AtomicU64>,
}

impl Course {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// So much more is done, after so long a wait.
    fn done(&self, count: u64, waited: Duration) {
        self.longest_us.fetch_max(waited.as_micros() as u64, Ordering::SeqCst);
        self.done.fetch_add(count, Ordering::SeqCst);
    }
}

/// A load on a thread of its own; `T` is what it knows at its end.
pub(crate) struct Background<T> {
    name: &'static str,
    course: Course,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Background<T> {
    fn start<F: Future<Output = T>>(
        name: &'static str,
        work: impl FnOnce(Course) -> F + Send + 'static,
    ) -> Self {
        let course = Course::default();
        let own = course.clone();
        let thread = thread::Builder::new().name(name.into());
        let thread = thread.spawn(move || Runtime::new().unwrap().block_on(work(own))).unwrap();
        Self { name, course, thread: Some(thread) }
    }

    /// How much is done.
    pub(crate) fn done(&self) -> u64 {
        self.course.done.load(Ordering::SeqCst)
    }

    /// The longest that anything which is done had to wait.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_micros(self.course.longest_us.load(Ordering::SeqCst))
    }

    /// Waits until so much is done.
    pub(crate) fn reaches(&self, count: u64) {
        until(self.name, PATIENCE, || {
            let failed = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!failed, "{}: has failed", self.name);
            (self.done() >= count).then_some(())
        });
    }

    /// Waits until more is done than now.
    pub(crate) fn flows(&self) {
        self.reaches(self.done() + 1);
    }

    /// Does something else, during which this must not stand still.
    pub(crate) fn during<R>(&self, what: &str, act: impl FnOnce() -> R) -> R {
        let before = self.done();
        let result = act();
        let meanwhile = self.done() - before;
        println!("{what}: {meanwhile} {} meanwhile", self.name);
        assert!(meanwhile > 0, "{}: none during: {what}", self.name);
        result
    }

    /// Ends it; what it knows, and the longest that anything had to wait.
    pub(crate) fn stop(mut self) -> (T, Duration) {
        self.course.stop.store(true, Ordering::SeqCst);
        let result = self.thread.take().unwrap().join().unwrap();
        println!("{} {}, the longest wait {:?}", self.done(), self.name, self.longest());
        (result, self.longest())
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.course.stop.store(true, Ordering::SeqCst);
    }
}
