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
    /// Each batch takes room in the object's footer, however small it is.
    pub(crate) max_batches: usize,
}

/// A slice's record count and length are stored in 32 bits.
const MAX_SLICE: u64 = u32::MAX as u64;

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

impl Queue {
    /// The first batches, until there are `bytes` or `count` of them, or as many as one slice may hold.
    fn take(&mut self, bytes: usize, count: usize) -> Vec<Pending> {
        let mut batches = Vec::with_capacity(self.batches.len().min(count));
        let (mut size, mut records) = (0, 0);
        while let Some(first) = self.batches.front() {
            records += u64::from(first.records);
            let full = size >= bytes || batches.len() >= count;
            let too_many = records > MAX_SLICE || (size + first.batch.len()) as u64 > MAX_SLICE;
            if full || (too_many && !batches.is_empty()) {
                break;
            }
            size += first.batch.len();
            batches.extend(self.batches.pop_front());
        }
        self.bytes -= size;
        batches
    }
}

/// All partitions' queues.
#[derive(Debug)]
pub(crate) struct Buffer {
    rule: FlushRule,
    queues: BTreeMap<PartitionId, Queue>,
    /// Open partitions with batches, about in the order in which their first batch came.
    line: VecDeque<PartitionId>,
    /// The urgent ones among them stand in a line of their own, which goes first.
    urgent: VecDeque<PartitionId>,
    /// Bytes of the partitions in the lines.
    bytes: usize,
    /// Batches of all partitions.
    count: usize,
}

impl Buffer {
    pub(crate) fn new(rule: FlushRule) -> Self {
        Self {
            rule,
            queues: BTreeMap::new(),
            line: VecDeque::new(),
            urgent: VecDeque::new(),
            bytes: 0,
            count: 0,
        }
    }

    /// Takes a batch, behind those that the partition has.
    pub(crate) fn push(&mut self, id: PartitionId, pending: Pending) {
        let queue = self.queues.entry(id).or_default();
        let size = pending.batch.len();
        queue.batches.push_back(pending);
        self.count += 1;
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
        self.count += batches.len();
        let queue = self.queues.entry(id).or_default();
        for pending in batches.into_iter().rev() {
            queue.bytes += pending.batch.len();
            queue.batches.push_front(pending);
        }
        self.list(id, true);
    }

    /// Whether the partition may be flushed, and whether it should be soon.
    pub(crate) fn set(&mut self, id: PartitionId, open: bool, urgent: bool) {
        if !open && self.is_empty(id) {
            // It stands in no line, and closed is what an unknown partition is: nothing is kept of those that left.
            self.queues.remove(&id);
            return;
        }
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
        let batches = self.queues.remove(&id).map(|queue| queue.batches).unwrap_or_default();
        self.count -= batches.len();
        batches
    }

    /// Takes out what has waited for longer than `timeout`, wherever it stands.
    pub(crate) fn expire(&mut self, now: Instant, timeout: Duration) -> Picked {
        let late = |pending: &Pending| now.saturating_duration_since(pending.arrived) > timeout;
        let has_late = |queue: &Queue| queue.batches.front().is_some_and(late);
        let found = self.queues.iter().filter(|(_, queue)| has_late(queue));
        let mut expired = Picked::new();
        for id in found.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.unlist(id);
            let Some(queue) = self.queues.get_mut(&id) else { continue };
            let count = queue.batches.iter().take_while(|pending| late(pending)).count();
            let batches: Vec<_> = queue.batches.drain(..count).collect();
            queue.bytes -= batches.iter().map(|pending| pending.batch.len()).sum::<usize>();
            self.count -= batches.len();
            expired.push((id, batches));
            self.list(id, false);
        }
        expired
    }

    pub(crate) fn has_batches(&self) -> bool {
        self.count > 0
    }

    pub(crate) fn is_empty(&self, id: PartitionId) -> bool {
        self.queues.get(&id).is_none_or(|queue| queue.batches.is_empty())
    }

    /// Whether an object should be made now, given how many PUTs are in flight.
    pub(crate) fn due(&self, now: Instant, uploads: usize) -> bool {
        if self.line.is_empty() && self.urgent.is_empty() {
            return false;
        }
        uploads == 0
            || !self.urgent.is_empty()
            || self.bytes >= self.rule.bytes
            || self.wake_at().is_some_and(|at| at <= now)
    }

    /// When the oldest batch will have waited for the flush interval.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let first = self.queues.get(self.line.front()?)?;
        Some(first.batches.front()?.arrived + self.rule.interval)
    }

    /// The batches of the next object, up to about the flush size: at least one batch, if any partition is open.
    ///
    /// What a partition has left stands behind the others, so that a busy one does not keep them waiting.
    pub(crate) fn take(&mut self) -> Picked {
        let mut picked = Picked::new();
        let (mut size, mut count) = (0, 0);
        while size < self.rule.bytes
            && count < self.rule.max_batches
            && picked.len() < self.rule.max_slices
        {
            let next = self.urgent.front().or_else(|| self.line.front()).copied();
            let Some(id) = next else { break };
            self.unlist(id);
            let Some(queue) = self.queues.get_mut(&id) else { break };
            let left = self.rule.max_batches - count;
            let batches = queue.take(self.rule.bytes.saturating_sub(size), left);
            size += batches.iter().map(|pending| pending.batch.len()).sum::<usize>();
            count += batches.len();
            picked.push((id, batches));
        }
        self.count -= count;
        for (id, _) in &picked {
            self.list(*id, false);
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
        let line = if queue.urgent { &mut self.urgent } else { &mut self.line };
        if first {
            line.push_front(id);
        } else {
            line.push_back(id);
        }
    }

    fn unlist(&mut self, id: PartitionId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if !queue.listed {
            return;
        }
        queue.listed = false;
        self.bytes -= queue.bytes;
        let line = if queue.urgent { &mut self.urgent } else { &mut self.line };
        if line.front() == Some(&id) {
            line.pop_front();
        } else {
            line.retain(|listed| *listed != id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::engine::testing::{partition, pending};

    const RULE: FlushRule = FlushRule {
        bytes: 1_000,
        interval: Duration::from_millis(100),
        max_slices: 8,
        max_batches: 64,
    };

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
        // The object is full after the second batch of partition 1; the third stays.
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
    fn a_busy_partition_does_not_keep_the_others_waiting() {
        let now = clock::now();
        let mut buffer = buffer();
        (0..4).for_each(|_| buffer.push(partition(0), pending(1_000, now)));
        buffer.push(partition(1), pending(10, now));
        assert_eq!(sizes(&buffer.take()), [(0, vec![1_000])]);
        assert_eq!(sizes(&buffer.take()), [(1, vec![10]), (0, vec![1_000])]);
    }

    #[test]
    fn urgent_partitions_go_first() {
        let now = clock::now();
        let mut buffer = buffer();
        buffer.push(partition(0), pending(1_000, now));
        buffer.push(partition(1), pending(1_000, now));
        buffer.set(partition(1), true, true);
        assert_eq!(sizes(&buffer.take()), [(1, vec![1_000])]);
        assert_eq!(sizes(&buffer.take()), [(0, vec![1_000])]);
    }

    #[test]
    fn no_object_has_more_batches_than_its_footer_has_room_for() {
        let now = clock::now();
        let mut buffer = Buffer::new(FlushRule { max_batches: 3, ..RULE });
        for number in 0..2 {
            buffer.set(partition(number), true, false);
            (0..2).for_each(|_| buffer.push(partition(number), pending(1, now)));
        }
        assert_eq!(sizes(&buffer.take()), [(0, vec![1, 1]), (1, vec![1])]);
        assert_eq!(sizes(&buffer.take()), [(1, vec![1])]);
    }

    #[test]
    fn no_slice_has_more_records_than_can_be_counted() {
        let now = clock::now();
        let mut buffer = buffer();
        for _ in 0..3 {
            let many = Pending { records: i32::MAX as u32, ..pending(1, now) };
            buffer.push(partition(0), many);
        }
        assert_eq!(sizes(&buffer.take()), [(0, vec![1, 1])]);
        assert_eq!(sizes(&buffer.take()), [(0, vec![1])]);
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
