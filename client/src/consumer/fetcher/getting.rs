//! Range GETs: which runs are fetched next, and which of several partitions go together.

use streamhouse_segment::ids::ObjectId;

use super::{Event, Fetcher};
use crate::consumer::joint::join;
use crate::consumer::source::Wanted;

/// Objects that are read at once, and runs of one partition.
const GETS: usize = 16;
const GETS_PER_SLOT: usize = 6;
/// What a slice takes on its way besides its bytes, roughly.
const SLICE_OVERHEAD: usize = 512;

impl Fetcher {
    /// Starts GETs while memory and the number of requests allow, partition after partition.
    pub(super) fn get(&mut self) {
        self.get_again();
        let count = self.slots.len();
        let mut idle = 0;
        while idle < count && self.gets < GETS {
            let index = self.get_turn % count;
            let slot = &self.slots[index];
            // One that waits for room is not overtaken: a large slice would wait for ever.
            if slot.has_planned() && !self.parts.memory.can_fetch(slot.next_run_bytes()) {
                return;
            }
            self.get_turn = (index + 1) % count;
            match self.next_wanted(index) {
                None => idle += 1,
                Some(first) => {
                    idle = 0;
                    let wanted = self.gather_neighbours(first);
                    self.start(wanted);
                }
            }
        }
    }

    /// Runs whose bytes were damaged come first: their partitions wait for them.
    fn get_again(&mut self) {
        while self.gets < GETS
            && let Some((index, version, run)) = self.again.pop_front()
        {
            let slot = &mut self.slots[index];
            if slot.target.version != version {
                continue;
            }
            let at = slot.at.clone();
            let Some(found) = slot.run(run) else { continue };
            let slices = found.slices.clone();
            let wanted = Wanted { slot: index, version, run, at, slices, anew: true };
            self.start(vec![wanted]);
        }
    }

    /// The slot's next run, if it may be fetched now.
    fn next_wanted(&mut self, index: usize) -> Option<Wanted> {
        let slot = &mut self.slots[index];
        if !slot.has_planned() || slot.getting() >= GETS_PER_SLOT {
            return None;
        }
        let (version, at) = (slot.target.version, slot.at.clone());
        let run = slot.next_run()?;
        let (run, slices) = (run.id, run.slices.clone());
        Some(Wanted { slot: index, version, run, at, slices, anew: false })
    }

    /// What other partitions want next from the same object, as far as it lies close by.
    fn gather_neighbours(&mut self, first: Wanted) -> Vec<Wanted> {
        let object: ObjectId = first.slices[0].object;
        let mut joint = first.range();
        let mut wanted = vec![first];
        // Each one that joins may bring its neighbour within reach.
        let mut grown = true;
        while grown {
            grown = false;
            for index in 0..self.slots.len() {
                let near = self.slots[index]
                    .next_range()
                    .filter(|(other, _)| *other == object)
                    .and_then(|(_, range)| join(&joint, &range));
                let Some(larger) = near else { continue };
                let bytes = (larger.end - larger.start) as usize;
                let memory = &self.parts.memory;
                if bytes > memory.joint() || !memory.can_fetch(bytes) {
                    return wanted;
                }
                let Some(next) = self.next_wanted(index) else { continue };
                let range = next.range();
                joint = joint.start.min(range.start)..joint.end.max(range.end);
                wanted.push(next);
                grown = true;
            }
        }
        wanted
    }

    fn start(&mut self, wanted: Vec<Wanted>) {
        let start = wanted.iter().map(|wanted| wanted.range().start).min().unwrap_or(0);
        let end = wanted.iter().map(|wanted| wanted.range().end).max().unwrap_or(0);
        let slices: usize = wanted.iter().map(|wanted| wanted.slices.len()).sum();
        let bytes = (end - start) as usize + slices * SLICE_OVERHEAD;
        let hold = self.parts.memory.fetched.take(bytes);
        let source = self.parts.source.clone();
        self.gets += 1;
        self.work.push(Box::pin(async move { Event::Got(source.fetch(wanted, hold).await) }));
    }
}
