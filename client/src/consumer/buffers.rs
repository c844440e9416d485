//! The buffers that batches are decompressed into, used over and over.
//!
//! Their records leave them in the order in which the application drops them, on other threads than those that filled
//! them. An allocator that is asked for a new one for every batch, of every size and on every thread, ends up with several
//! times what is in use. BOUND: what lies here unused and what is in use together stay within the decoded half of the
//! consumer's memory.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::budget::Memory;

/// Smaller ones come from the allocator and go back there.
const LEAST: usize = 16 << 10;
/// BOUND: of unused ones; a look through them is short.
const MOST_UNUSED: usize = 128;

/// Those that are unused, the longest unused one first.
#[derive(Debug, Default)]
pub(super) struct Unused(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    buffers: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// A buffer in use; it goes back when it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Memory>,
}

impl Buffer {
    /// One of at least `bytes`, for which room was taken already, and not much larger.
    pub(super) fn take(home: &Arc<Memory>, bytes: usize) -> Self {
        let size = if bytes < LEAST { bytes } else { rounded(bytes) };
        let known = home.unused.take(size);
        let bytes = known.unwrap_or_else(|| {
            home.unused.trim(home);
            vec![0; size]
        });
        Self { bytes, home: home.clone() }
    }
}

/// To the next of eight steps between powers of two, so that there are few different ones.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(bytes.next_power_of_two() / 8)
}

impl Unused {
    /// The smallest one that is not much too large.
    fn take(&self, size: usize) -> Option<Vec<u8>> {
        if size < LEAST {
            return None;
        }
        let mut state = self.0.lock();
        let sizes = state.buffers.iter().map(Vec::len).enumerate();
        let (index, _) =
            sizes.filter(|(_, len)| (size..=2 * size).contains(len)).min_by_key(|(_, len)| *len)?;
        let found = state.buffers.remove(index)?;
        state.bytes -= found.len();
        Some(found)
    }

    fn give(&self, memory: &Memory, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        state.bytes += bytes.len();
        state.buffers.push_back(bytes);
        drop(state);
        self.trim(memory);
    }

    /// Gives so many up that the others fit besides what is in use.
    fn trim(&self, memory: &Memory) {
        let mut gone = Vec::new();
        let mut state = self.0.lock();
        while state.buffers.len() > MOST_UNUSED || state.bytes > memory.room_to_decode() {
            let Some(oldest) = state.buffers.pop_front() else { break };
            state.bytes -= oldest.len();
            gone.push(oldest);
        }
        // They are given back to the allocator without the lock.
        drop(state);
        drop(gone);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() >= LEAST {
            self.home.unused.give(&self.home, bytes);
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
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
        let small = Buffer::take(&memory, 20_000);
        assert_ne!(small.as_ref().as_ptr(), place);
        let again = Buffer::take(&memory, 90_000);
        assert_eq!(again.as_ref().as_ptr(), place);
    }

    #[test]
    fn unused_buffers_leave_room_for_what_is_in_use() {
        let memory = Arc::new(Memory::new(400_000));
        drop((Buffer::take(&memory, 100_000), Buffer::take(&memory, 60_000)));
        assert_eq!(memory.unused.0.lock().buffers.len(), 2);
        // Half of the memory is for this; a new one takes its part.
        let hold = memory.decoded.take(120_000);
        let _new = Buffer::take(&memory, 20_000);
        assert_eq!(memory.unused.0.lock().buffers.len(), 1);
        let more = memory.decoded.take(80_000);
        drop(Buffer::take(&memory, 20_000));
        assert_eq!(memory.unused.0.lock().bytes, 0);
        drop((hold, more));
    }
}
