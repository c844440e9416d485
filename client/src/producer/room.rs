//! The memory that a producer may use for records it has taken and not yet seen acknowledged.

use tokio::sync::Semaphore;

/// What a batch takes besides its records: its buffers' first allocation, and what is kept of it until its end. Taken
/// out of the room when the batch is opened, so that many small batches are bounded like few large ones.
pub(super) const BATCH_OVERHEAD: usize = 2 << 10;

/// BOUND: `send` takes its record's weight out of here and waits while there is not enough.
#[derive(Debug)]
pub(super) struct Room {
    free: Semaphore,
    limit: usize,
}

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self { free: Semaphore::new(limit), limit }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How many bytes are taken.
    pub(super) fn used(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    /// Takes `weight` bytes if they are free.
    #[inline]
    pub(super) fn try_take(&self, weight: usize) -> bool {
        match self.free.try_acquire_many(permits(weight)) {
            Ok(taken) => {
                taken.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes `weight` bytes as soon as they are free; those that wait are served in turn. `false`: closed meanwhile.
    pub(super) async fn take(&self, weight: usize) -> bool {
        match self.free.acquire_many(permits(weight)).await {
            Ok(taken) => {
                taken.forget();
                true
            }
            Err(_) => false,
        }
    }

    pub(super) fn give_back(&self, weight: usize) {
        self.free.add_permits(weight);
    }

    /// Ends every wait, now and later.
    pub(super) fn close(&self) {
        self.free.close();
    }
}

/// [`BATCH_OVERHEAD`] for the batch that a record may open: taken ahead by whoever had to wait for it, else when it is
/// needed. What was not needed goes back.
#[derive(Debug)]
pub(super) struct BatchRoom<'a> {
    room: &'a Room,
    taken: bool,
}

impl<'a> BatchRoom<'a> {
    pub(super) fn new(room: &'a Room, taken: bool) -> Self {
        Self { room, taken }
    }

    /// A batch is opened: it now owns its overhead. `false`: there is no room for it.
    pub(super) fn claim(&mut self) -> bool {
        std::mem::take(&mut self.taken) || self.room.try_take(BATCH_OVERHEAD)
    }

    /// The batch came to nothing.
    pub(super) fn give_back(&self) {
        self.room.give_back(BATCH_OVERHEAD);
    }
}

impl Drop for BatchRoom<'_> {
    fn drop(&mut self) {
        if self.taken {
            self.give_back();
        }
    }
}

/// A record is far below 4 GiB, and one that is not is refused when it is encoded.
fn permits(weight: usize) -> u32 {
    u32::try_from(weight).unwrap_or(u32::MAX)
}
