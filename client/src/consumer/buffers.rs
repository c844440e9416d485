//! The buffers that batches are decompressed into, used over and over.
//!
//! Their records leave them in the order in which the application drops them, on other threads than those that filled
//! them. An allocator carves such sizes out of pages of several MiB, for each size and each thread, and gives a page back
//! when nothing in it is in use: it ends up with several times what is. So the larger ones are mappings of their own. BOUND:
//! what lies here unused and what is in use together stay within the decoded half of the consumer's memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memmap2::MmapMut;
use parking_lot::Mutex;

use super::budget::Memory;

/// Smaller ones come from the allocator and go back there.
const LEAST: usize = 32 << 10;
/// BOUND: of unused ones; a look through them is short.
const MOST_UNUSED: usize = 128;
/// BOUND: of mappings that a consumer has, in use or not; a process may have so many (Linux: 65,530 by default), and an
/// application may keep records for as long as it likes.
const MOST_MAPPED: usize = 4096;

/// Those that are unused, the longest unused one first.
#[derive(Debug, Default)]
pub(super) struct Unused {
    state: Mutex<State>,
    mapped: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct State {
    buffers: VecDeque<Space>,
    bytes: usize,
}

/// Where a buffer lies.
#[derive(Debug)]
enum Space {
    Mapped(Mapping),
    Heap(Vec<u8>),
}

/// Counted for as long as it is there.
#[derive(Debug)]
struct Mapping {
    bytes: MmapMut,
    count: Arc<AtomicUsize>,
}

/// A buffer in use; it goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    space: Space,
    home: Arc<Memory>,
}

impl Buffer {
    /// One of at least `bytes`, for which room was taken already, and not much larger.
    pub(super) fn take(home: &Arc<Memory>, bytes: usize) -> Self {
        let size = if bytes < LEAST { bytes } else { rounded(bytes) };
        let known = home.unused.take(size);
        let space = known.unwrap_or_else(|| {
            home.unused.trim(home);
            home.unused.make(size)
        });
        Self { space, home: home.clone() }
    }
}

/// To the next of four sizes between powers of two, so that there are few different ones, of whole pages.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(bytes.next_power_of_two() / 8)
}

impl Unused {
    /// A new one, zeroed.
    fn make(&self, size: usize) -> Space {
        if size >= LEAST && self.mapped.load(Relaxed) < MOST_MAPPED {
            // The system may have no more of them; then the allocator may know better.
            if let Ok(bytes) = MmapMut::map_anon(size) {
                return Space::Mapped(Mapping::new(bytes, &self.mapped));
            }
        }
        Space::Heap(vec![0; size])
    }

    /// The smallest one that is not much too large.
    fn take(&self, size: usize) -> Option<Space> {
        if size < LEAST {
            return None;
        }
        let mut state = self.state.lock();
        let sizes = state.buffers.iter().map(Space::len).enumerate();
        let (index, _) =
            sizes.filter(|(_, len)| (size..=2 * size).contains(len)).min_by_key(|(_, len)| *len)?;
        let found = state.buffers.remove(index)?;
        state.bytes -= found.len();
        Some(found)
    }

    fn give(&self, memory: &Memory, space: Space) {
        let mut state = self.state.lock();
        state.bytes += space.len();
        state.buffers.push_back(space);
        drop(state);
        self.trim(memory);
    }

    /// Gives so many up that the others fit besides what is in use.
    fn trim(&self, memory: &Memory) {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        while state.buffers.len() > MOST_UNUSED || state.bytes > memory.room_to_decode() {
            let Some(oldest) = state.buffers.pop_front() else { break };
            state.bytes -= oldest.len();
            gone.push(oldest);
        }
        // They are given back to the system without the lock.
        drop(state);
        drop(gone);
    }
}

impl Space {
    fn len(&self) -> usize {
        match self {
            Self::Mapped(mapping) => mapping.bytes.len(),
            Self::Heap(bytes) => bytes.len(),
        }
    }
}

impl Mapping {
    fn new(bytes: MmapMut, count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Relaxed);
        Self { bytes, count: count.clone() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Relaxed);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let space = std::mem::replace(&mut self.space, Space::Heap(Vec::new()));
        if space.len() >= LEAST {
            self.home.unused.give(&self.home, space);
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        match &self.space {
            Space::Mapped(mapping) => &mapping.bytes,
            Space::Heap(bytes) => bytes,
        }
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match &mut self.space {
            Space::Mapped(mapping) => &mut mapping.bytes,
            Space::Heap(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_if_it_is_not_much_too_large() {
        let memory = Arc::new(Memory::new(1 << 20));
        let first = Buffer::take(&memory, 100_000);
        let place = first.as_ref().as_ptr();
        assert_eq!(first.as_ref().len(), 114_688);
        drop(first);
        let small = Buffer::take(&memory, 40_000);
        assert_ne!(small.as_ref().as_ptr(), place);
        let again = Buffer::take(&memory, 90_000);
        assert_eq!(again.as_ref().as_ptr(), place);
    }

    #[test]
    fn unused_buffers_leave_room_for_what_is_in_use() {
        let memory = Arc::new(Memory::new(400_000));
        drop((Buffer::take(&memory, 100_000), Buffer::take(&memory, 60_000)));
        assert_eq!(memory.unused.state.lock().buffers.len(), 2);
        // Half of the memory is for this; a new one takes its part.
        let hold = memory.decoded.take(120_000);
        let _new = Buffer::take(&memory, 20_000);
        assert_eq!(memory.unused.state.lock().buffers.len(), 1);
        let more = memory.decoded.take(80_000);
        drop(Buffer::take(&memory, 40_000));
        assert_eq!(memory.unused.state.lock().bytes, 0);
        drop((hold, more));
    }

    #[test]
    fn beyond_so_many_mappings_the_allocator_is_asked() {
        let memory = Arc::new(Memory::new(1 << 20));
        let unused = &memory.unused;
        let kept: Vec<Space> = (0..MOST_MAPPED).map(|_| unused.make(LEAST)).collect();
        assert!(kept.iter().all(|space| matches!(space, Space::Mapped(..))));
        assert!(matches!(unused.make(LEAST), Space::Heap(_)));
        drop(kept);
        assert!(matches!(unused.make(LEAST), Space::Mapped(..)));
    }
}
