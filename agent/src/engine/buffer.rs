//! Batches that wait for an object, per partition and in order, and the rule that says when to make one.
//!
//! * A batch leaves at once while no PUT is in flight: at low load nobody waits for company.
//! * Otherwise an object is due when it would be full, when its oldest batch has waited for the flush interval, or
//!   when somebody is in a hurry (a lease that is to be given back).

use crate::partition::PartitionId;
use crate::ticket::Pending;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// When to make an object, and how large.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushRule {
    pub(crate) bytes: usize,
    pub(crate) interval: Duration,
    pub(crate) max_slices: usize,
}

/// What one object takes from the buffer.
pub(crate) type Picked = Vec<(PartitionId, Vec<Pending>)>;

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Pending>,
    bytes: usize,
    /// The partition may be flushed: its lease is held and no answer is awaited that could change its order.
    open: bool,
    urgent: bool,
    /// It stands in the line.
    listed: bool,
}

/// All partitions' queues.
#[derive(Debug)]
pub(crate) struct Buffer {
    rule: FlushRule,
    queues: BTreeMap<PartitionId, Queue>,
    /// Open partitions with batches, about in the order in which their first batch came.
    line: VecDeque<PartitionId>,
    /// Bytes of the partitions in the line.
    bytes: usize,
    /// How many of them are urgent.
    urgent: usize,
}

impl Buffer {
    pub(crate) fn new(rule: FlushRule) -> Self {
        Self { rule, queues: BTreeMap::new(), line: VecDeque::new(), bytes: 0, urgent: 0 }
    }

    /// Takes a batch, behind those that the partition has.
    pub(crate) fn push(&mut self, id: PartitionId, pending: Pending) {
        let queue = self.queues.entry(id).or_default();
        let size = pending.batch.len();
        queue.batches.push_back(pending);
        queue.bytes += size;
        if queue.listed {
            self.bytes += size;
        } else {
            self.list(id, false);
        }
    }

    /// Puts batches back in front of those that the partition has, keeping their order.
    pub(crate) fn put_back(&mut self, id: PartitionId, batches: Vec<Pending>) {
        if batches.is_empty() {
            return;
        }
        self.unlist(id);
        let queue = self.queues.entry(id).or_default();
        for pending in batches.into_iter().rev() {
            queue.bytes += pending.batch.len();
            queue.batches.push_front(pending);
        }
        self.list(id, true);
    }

    /// Whether the partition may be flushed, and whether it should be soon.
    pub(crate) fn set(&mut self, id: PartitionId, open: bool, urgent: bool) {
        let queue = self.queues.entry(id).or_default();
        if queue.open == open && queue.urgent == urgent {
            return;
        }
        self.unlist(id);
        let queue = self.queues.entry(id).or_default();
        queue.open = open;
        queue.urgent = urgent;
        self.list(id, false);
    }

    /// Everything the partition has: its lease is lost.
    pub(crate) fn remove(&mut self, id: PartitionId) -> VecDeque<Pending> {
        self.unlist(id);
        self.queues.remove(&id).map(|queue| queue.batches).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self, id: PartitionId) -> bool {
        self.queues.get(&id).is_none_or(|queue| queue.batches.is_empty())
    }

    /// Whether an object should be made now, given how many PUTs are in flight.
    pub(crate) fn due(&self, now: Instant, uploads: usize) -> bool {
        if self.line.is_empty() {
            return false;
        }
        uploads == 0
            || self.urgent > 0
            || self.bytes >= self.rule.bytes
            || self.wake_at().is_some_and(|at| at <= now)
    }

    /// When the oldest batch will have waited for the flush interval.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let first = self.queues.get(self.line.front()?)?;
        Some(first.batches.front()?.arrived + self.rule.interval)
    }

    /// The batches of the next object, up to about the flush size: at least one batch, if any partition is open.
    pub(crate) fn take(&mut self) -> Picked {
        let mut picked = Picked::new();
        let mut size = 0;
        while size < self.rule.bytes && picked.len() < self.rule.max_slices {
            let Some(&id) = self.line.front() else { break };
            self.unlist(id);
            let Some(queue) = self.queues.get_mut(&id) else { break };
            let mut batches = Vec::with_capacity(queue.batches.len());
            while let Some(pending) = queue.batches.pop_front() {
                queue.bytes -= pending.batch.len();
                size += pending.batch.len();
                batches.push(pending);
                if size >= self.rule.bytes {
                    break;
                }
            }
            picked.push((id, batches));
            self.list(id, true);
        }
        picked
    }

    fn list(&mut self, id: PartitionId, first: bool) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.listed || !queue.open || queue.batches.is_empty() {
            return;
        }
        queue.listed = true;
        self.bytes += queue.bytes;
        self.urgent += usize::from(queue.urgent);
        if first {
            self.line.push_front(id);
        } else {
            self.line.push_back(id);
        }
    }

    fn unlist(&mut self, id: PartitionId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if !queue.listed {
            return;
        }
        queue.listed = false;
        self.bytes -= queue.bytes;
        self.urgent -= usize::from(queue.urgent);
        if self.line.front() == Some(&id) {
            self.line.pop_front();
        } else {
            self.line.retain(|listed| *listed != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::engine::testing::{partition, pending};

    const RULE: FlushRule =
        FlushRule { bytes: 1_000, interval: Duration::from_millis(100), max_slices: 8 };

    fn buffer() -> Buffer {
        let mut buffer = Buffer::new(RULE);
        for number in 0..4 {
            buffer.set(partition(number), true, false);
        }
        buffer
    }

    fn sizes(picked: &Picked) -> Vec<(u32, Vec<usize>)> {
        let of = |batches: &Vec<Pending>| batches.iter().map(|one| one.batch.len()).collect();
        picked.iter().map(|(id, batches)| (id.partition, of(batches))).collect()
    }

    #[test]
    fn a_batch_leaves_at_once_while_nothing_is_in_flight() {
        let now = clock::now();
        let mut buffer = buffer();
        assert!(!buffer.due(now, 0));
        buffer.push(partition(0), pending(10, now));
        assert!(buffer.due(now, 0));
        assert!(!buffer.due(now, 1));
        assert_eq!(sizes(&buffer.take()), [(0, vec![10])]);
        assert!(!buffer.due(now, 0));
    }

    #[test]
    fn while_a_put_is_in_flight_a_batch_waits_for_the_interval() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.push(partition(0), pending(10, now));
        assert_eq!(buffer.wake_at(), Some(now + RULE.interval));
        assert!(!buffer.due(now + RULE.interval - Duration::from_millis(1), 1));
        assert!(buffer.due(now + RULE.interval, 1));
    }

    #[test]
    fn a_full_buffer_does_not_wait_and_leaves_object_by_object() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.push(partition(0), pending(600, now));
        assert!(!buffer.due(now, 1));
        buffer.push(partition(1), pending(300, now));
        buffer.push(partition(1), pending(301, now));
        buffer.push(partition(1), pending(302, now));
        assert!(buffer.due(now, 1));
        // The object is full after the second batch of partition 1; the third stays, first in line.
        assert_eq!(sizes(&buffer.take()), [(0, vec![600]), (1, vec![300, 301])]);
        assert!(!buffer.due(now, 1));
        assert_eq!(sizes(&buffer.take()), [(1, vec![302])]);
    }

    #[test]
    fn batches_put_back_go_first_and_in_their_old_order() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.push(partition(2), pending(3, now));
        buffer.put_back(partition(2), vec![pending(1, now), pending(2, now)]);
        assert_eq!(sizes(&buffer.take()), [(2, vec![1, 2, 3])]);
    }

    #[test]
    fn a_closed_partition_waits_without_holding_up_others() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.set(partition(0), false, false);
        buffer.push(partition(0), pending(5_000, now));
        assert!(!buffer.due(now, 0));
        buffer.push(partition(1), pending(10, now));
        assert_eq!(sizes(&buffer.take()), [(1, vec![10])]);
        buffer.set(partition(0), true, false);
        assert!(buffer.due(now, 3));
        assert_eq!(sizes(&buffer.take()), [(0, vec![5_000])]);
    }

    #[test]
    fn an_urgent_partition_is_due_at_once() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.push(partition(1), pending(10, now));
        assert!(!buffer.due(now, 2));
        buffer.set(partition(1), true, true);
        assert!(buffer.due(now, 2));
        buffer.take();
        assert!(!buffer.due(now, 0));
    }

    #[test]
    fn no_object_has_more_slices_than_allowed() {
        let now = clock::now();
        let mut buffer = Buffer::new(FlushRule { max_slices: 2, ..RULE });
        for number in 0..3 {
            buffer.set(partition(number), true, false);
            buffer.push(partition(number), pending(1, now));
        }
        assert_eq!(buffer.take().len(), 2);
        assert_eq!(buffer.take().len(), 1);
    }
}
