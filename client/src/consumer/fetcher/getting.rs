//! Range GETs: which runs are fetched next, and which of several partitions go together.

use streamhouse_segment::ids::ObjectId;

use super::{Event, Fetcher};
use crate::consumer::joint::join;
use crate::consumer::source::Wanted;

/// Objects that are read at once, and runs of one partition.
const GETS: usize = 16;
const GETS_PER_SLOT: usize = 6;

impl Fetcher {
    /// Starts GETs while memory and the number of requests allow, partition after partition.
    pub(super) fn get(&mut self) {
        self.get_again();
        let count = self.slots.len();
        let mut idle = 0;
        while idle < count && self.gets < GETS && self.has_fetch_room(0) {
            let index = self.get_turn % count;
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
                if bytes > self.parts.fetch_memory / 4 || !self.has_fetch_room(bytes) {
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
        let hold = self.parts.fetched.take((end - start) as usize);
        let source = self.parts.source.clone();
        self.gets += 1;
        self.work.push(Box::pin(async move { Event::Got(source.fetch(wanted, hold).await) }));
    }

    /// BOUND: half of the memory is for what is fetched, half for what is decoded. A GET over the limit passes alone.
    fn has_fetch_room(&self, bytes: usize) -> bool {
        let held = self.parts.fetched.held();
        held == 0 || held + bytes < self.parts.fetch_memory / 2
    }
}
